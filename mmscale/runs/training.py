"""Runs one stage of one method: parts in, parts out; a finished stage is not repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mmscale.answering.solvers import solver_in_memory, task_accuracy
from mmscale.errors import UserError
from mmscale.models import mapping_files
from mmscale.models.assembly import (
    PARTS_FILE,
    ModelParts,
    assemble,
    make_trainable,
    portable,
    read_parts,
    write_parts,
)
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.export import TRUNK_PREFIX, export
from mmscale.models.mapping import Mapping
from mmscale.models.merge import MergedModel
from mmscale.models.seal import SEAL_FILE, require_unchanged, write_seal
from mmscale.parallel.context import Layout
from mmscale.parallel.zero import partitioned_loading
from mmscale.runs import encoder_cache, settings
from mmscale.runs.stage import StagePlace
from mmscale.runs.tokenizing import tokens
from mmscale.storage.files import (
    cannot_write,
    make_temporary,
    publish_directory,
    recover_directory,
    sha256,
    sync_tree,
    temporary_path,
)
from mmscale.training import checkpoint
from mmscale.training.engines import make_engine
from mmscale.training.fragments import SavedState
from mmscale.training.objective import CausalObjective
from mmscale.training.trainer import Trainer

_MAPPING = "mapping.safetensors"


def run_stage(place: StagePlace, start: ModelParts, layout: Layout) -> ModelParts:
    """Train (or go on training, or take as finished) a stage; the parts of the model it made. All ranks call it."""
    if place.config.initial_mapping is not None:
        start = replace(start, mapping=str(mapping_files.file_of(Path(place.config.initial_mapping).expanduser())))
    print_of_start = settings.fingerprint(place, start)
    if not layout.from_first(lambda: place.finished):
        with layout.alone_in(place.folder):
            layout.on_first(lambda: recover_directory(place.model))
            if not layout.from_first(lambda: place.finished):  # another run may have finished it meanwhile
                return _train(place, start, print_of_start, layout)
    made = require_unchanged(place.model, layout).fingerprint
    if made != print_of_start:
        raise settings.refusal(place.model, place, start)
    return _as_configured(read_parts(str(place.model)), place)


def _as_configured(parts: ModelParts, place: StagePlace) -> ModelParts:
    """With what this run's configuration says and no file may: whether models' own code runs, and how attention does."""
    own, encoder = place.run.language_model, place.encoder
    chosen = {"trust_remote_code": own.trust_remote_code, "attention": own.attention}
    trust = {"trust_remote_code": encoder.trust_remote_code} if encoder else {}
    return replace(
        parts,
        language_model=parts.language_model.model_copy(update=chosen),
        encoder=parts.encoder and parts.encoder.model_copy(update=trust),
    )


def _train(place: StagePlace, start: ModelParts, print_of_start: str, layout: Layout) -> ModelParts:
    layout.on_first(lambda: settings.keep(place, start))
    config, zero, trains_mapping = place.config, place.run.parallel.zero, place.spec.trains == "mapping"
    data = tokens(place, layout)
    if start.encoder is not None:
        data = encoder_cache.cached(place, start.encoder, data, layout)
    encodes = config.evaluate_task is not None or not encoder_cache.every_row_has_states(data)
    loading = partitioned_loading(zero, config, layout)
    model, encoder_tokenizer = assemble(start, layout, place.run.seed, loading, encodes)
    make_trainable(model.language_model, config.gradient_checkpointing, frozen=trains_mapping)
    if model.mapping is not None:
        model.mapping.requires_grad_(trains_mapping).train()
    torch.manual_seed(place.run.seed)
    engine = make_engine(CausalObjective(model), config, zero, layout)
    scored = _task_accuracy(place, model, encoder_tokenizer) if config.evaluate_task else None
    trainer = Trainer(
        place.title,
        place.folder,
        config,
        engine,
        data,
        place.run.seed,
        print_of_start,
        layout,
        place.run.parallel.interruption,
        scored,
    )
    try:
        chosen = trainer.run()
    except checkpoint.OtherSettings as error:
        raise settings.refusal(error.path, place, start) from error
    problem = checkpoint.fault(chosen, layout)  # the best one may be hours old
    if problem is not None:
        raise UserError(f"{chosen}: {problem}: remove it, and start the same command again")
    _write_model(place, start, model, SavedState(chosen), print_of_start, layout)
    encoder_cache.drop(place, layout)
    return _as_configured(read_parts(str(place.model)), place)


def _task_accuracy(
    place: StagePlace, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None
) -> Callable[[], float]:
    """Solves the first rows of the stage's `evaluate_task` with the model as it stands."""
    task = place.run.evaluation.tasks[place.config.evaluate_task or ""]
    data = task.data.model_copy(update={"limit_per_language": place.config.evaluate_task_rows})
    small = task.model_copy(update={"data": data})
    solver = solver_in_memory(place.title, model, encoder_tokenizer, place.prompt, "")
    return lambda: task_accuracy(solver, model, small, place.run.languages)


def _write_model(
    place: StagePlace, start: ModelParts, model: MergedModel, trained: SavedState, print_of_start: str, layout: Layout
) -> None:
    """The stage's model, whole or not at all, in the formats others load: Hugging Face folder or mapping file.

    All ranks call it: shards are written and hashed in turns, so that nobody waits long in a collective.
    """
    folder = temporary_path(place.model)
    layout.on_first(lambda: make_temporary(place.model))
    try:
        parts = replace(portable(start, model), prompt=place.prompt)
        if place.spec.trains == "mapping":
            layout.on_first(lambda: _write_mapping(model, trained, folder))
            names, parts = [_MAPPING], replace(parts, mapping=_MAPPING)
        else:
            names = export(model.language_model, lambda name: trained.parameter(TRUNK_PREFIX + name), folder, layout)
            own = parts.language_model.model_copy(update={"path": ".", "revision": None})
            parts = replace(parts, language_model=own)
        layout.on_first(lambda: write_parts(folder, parts))
        names.append(PARTS_FILE)
        hashed = dict(zip(names, layout.in_turns([partial(sha256, folder / name) for name in names]), strict=True))
        layout.on_first(lambda: _publish(place.model, folder, print_of_start, hashed))
    except UserError:
        if layout.is_first:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _write_mapping(model: MergedModel, trained: SavedState, folder: Path) -> None:
    assert model.mapping is not None
    mapping = Mapping(model.mapping.encoder_width, model.mapping.llm_width)
    mapping.load_state_dict({key: trained.parameter(f"mapping.{key}") for key in mapping_files.KEYS})
    try:
        mapping_files.write(mapping, folder / _MAPPING)
    except OSError as error:
        raise cannot_write(folder / _MAPPING, error) from error


def _publish(target: Path, folder: Path, fingerprint: str, hashed: dict[str, str]) -> None:
    try:
        write_seal(folder, fingerprint, hashed)
        sync_tree(
            folder, [name for name in (*hashed, SEAL_FILE) if not name.endswith(".safetensors") or name == _MAPPING]
        )
        publish_directory(folder, target)
    except OSError as error:
        raise cannot_write(target, error) from error
