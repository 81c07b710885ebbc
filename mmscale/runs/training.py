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
    trained_with,
    write_parts,
)
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.export import TRUNK_PREFIX, export
from mmscale.models.mapping import Mapping
from mmscale.models.merge import MergedModel
from mmscale.models.seal import SEAL_FILE, require_unchanged, write_seal
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.zero import partitioned_loading
from mmscale.progress import detail
from mmscale.runs import encoder_cache, settings
from mmscale.runs.stage import Stage
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


def run_stage(stage: Stage, start: ModelParts, context: ParallelContext) -> ModelParts:
    """Train (or go on training, or take as finished) a stage; the parts of the model it made. All ranks call it."""
    if stage.config.initial_mapping is not None:
        start = replace(start, mapping=str(mapping_files.file_of(Path(stage.config.initial_mapping).expanduser())))
    print_of_start = settings.fingerprint(stage, start)
    if not context.from_first(lambda: stage.finished):
        with context.alone_in(stage.folder):
            context.on_first(lambda: recover_directory(stage.model))
            if not context.from_first(lambda: stage.finished):  # another run may have finished it meanwhile
                return _train(stage, start, print_of_start, context)
    made = require_unchanged(stage.model, context).fingerprint
    if made != print_of_start:
        raise settings.refusal(stage.model, stage, start)
    detail(f"{stage.title}: finished already, its model is in {stage.model}")
    return _as_configured(read_parts(str(stage.model)), stage)


def _as_configured(parts: ModelParts, stage: Stage) -> ModelParts:
    """With what this run's configuration says and no file may: whether models' own code runs, and how attention does."""
    own, encoder = stage.run.language_model, stage.encoder
    chosen = {"trust_remote_code": own.trust_remote_code, "attention": own.attention}
    trust = {"trust_remote_code": encoder.trust_remote_code} if encoder else {}
    return replace(
        parts,
        language_model=parts.language_model.model_copy(update=chosen),
        encoder=parts.encoder and parts.encoder.model_copy(update=trust),
    )


def _train(stage: Stage, start: ModelParts, print_of_start: str, context: ParallelContext) -> ModelParts:
    if stage.spec.trains == "mapping":
        start = replace(start, trained_with=start.trained_with or context.from_first(lambda: trained_with(start)))
    context.on_first(lambda: settings.keep(stage, start))
    config, zero, trains_mapping = stage.config, stage.run.parallel.zero, stage.spec.trains == "mapping"
    data = tokens(stage, context)
    if start.encoder is not None:
        data = encoder_cache.cached(stage, start.encoder, data, context)
    encodes = config.evaluate_task is not None or not encoder_cache.every_row_has_states(data)
    loading = partitioned_loading(zero, config, context)
    model, encoder_tokenizer = assemble(start, context, stage.run.seed, loading, encodes)
    make_trainable(model.language_model, config.gradient_checkpointing, frozen=trains_mapping)
    if model.mapping is not None:
        model.mapping.requires_grad_(trains_mapping).train()
    torch.manual_seed(stage.run.seed)
    engine = make_engine(CausalObjective(model), config, zero, context)
    scored = _task_accuracy(stage, model, encoder_tokenizer) if config.evaluate_task else None
    trainer = Trainer(
        stage.title,
        stage.folder,
        config,
        engine,
        data,
        stage.run.seed,
        print_of_start,
        context,
        stage.run.parallel.interruption,
        scored,
    )
    try:
        chosen = trainer.run()
    except checkpoint.OtherSettings as error:
        raise settings.refusal(error.path, stage, start) from error
    problem = checkpoint.fault(chosen, context)  # the best one may be hours old
    if problem is not None:
        raise UserError(f"{chosen}: {problem}: remove it, and start the same command again")
    _write_model(stage, start, model, SavedState(chosen), print_of_start, context)
    encoder_cache.drop(stage, context)
    return _as_configured(read_parts(str(stage.model)), stage)


def _task_accuracy(stage: Stage, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None) -> Callable[[], float]:
    """Solves the first rows of the stage's `evaluate_task` with the model as it stands."""
    task = stage.run.evaluation.tasks[stage.config.evaluate_task or ""]
    data = task.data.model_copy(update={"limit_per_language": stage.config.evaluate_task_rows})
    small = task.model_copy(update={"data": data})
    solver = solver_in_memory(stage.title, model, encoder_tokenizer, stage.prompt, "")
    return lambda: task_accuracy(solver, model, small, stage.run.languages)


def _write_model(
    stage: Stage,
    start: ModelParts,
    model: MergedModel,
    trained: SavedState,
    print_of_start: str,
    context: ParallelContext,
) -> None:
    """The stage's model, whole or not at all, in the formats others load: Hugging Face folder or mapping file.

    All ranks call it: shards are written and hashed in turns, so that nobody waits long in a collective.
    """
    folder = temporary_path(stage.model)
    context.on_first(lambda: make_temporary(stage.model))
    try:
        parts = replace(portable(start, model), prompt=stage.prompt)
        if stage.spec.trains == "mapping":
            context.on_first(lambda: _write_mapping(model, trained, folder))
            names, parts = [_MAPPING], replace(parts, mapping=_MAPPING)
        else:
            names = export(model.language_model, lambda name: trained.parameter(TRUNK_PREFIX + name), folder, context)
            own = parts.language_model.model_copy(update={"path": ".", "revision": None})
            parts = replace(parts, language_model=own)
        context.on_first(lambda: write_parts(folder, parts))
        names.append(PARTS_FILE)
        hashed = dict(zip(names, context.in_turns([partial(sha256, folder / name) for name in names]), strict=True))
        context.on_first(lambda: _publish(stage.model, folder, print_of_start, hashed))
    except UserError:
        if context.is_first:
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
