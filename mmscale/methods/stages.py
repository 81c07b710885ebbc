"""Runs one stage of one method: parts in, parts out; a finished stage is not repeated."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError
from mmscale.files import recover_directory, write_directory, write_json
from mmscale.methods import encoder_cache
from mmscale.methods.place import StagePlace
from mmscale.methods.solvers import solver_in_memory, task_accuracy
from mmscale.methods.tokenizing import tokens
from mmscale.models import mapping_files
from mmscale.models.assembly import (
    FINGERPRINT_FILE,
    ModelParts,
    assemble,
    make_trainable,
    provenance,
    read_parts,
    write_parts,
)
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.export import TRUNK_PREFIX, export
from mmscale.models.mapping import Mapping
from mmscale.models.merge import MergedModel
from mmscale.parallel.layout import Layout
from mmscale.parallel.zero import partitioned_loading
from mmscale.training.engines import make_engine
from mmscale.training.fragments import SavedState
from mmscale.training.objective import CausalObjective
from mmscale.training.trainer import Trainer


def fingerprint(place: StagePlace, start: ModelParts) -> str:
    """What decides a stage's result: its configuration, where it starts, languages and seed."""
    content = [
        place.config.model_dump(mode="json"),
        start.language_model.model_dump(mode="json"),
        start.encoder.model_dump(mode="json") if start.encoder else None,
        provenance(start),
        place.run.languages,
        place.run.seed,
        place.spec.name,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def run_stage(place: StagePlace, start: ModelParts, layout: Layout) -> ModelParts:
    """Train (or go on training, or take as finished) a stage; the parts of the model it made. All ranks call it."""
    print_of_start = fingerprint(place, start)
    if not layout.from_first(lambda: place.finished):
        with layout.alone_in(place.folder):
            layout.on_first(lambda: recover_directory(place.model))
            if not layout.from_first(lambda: place.finished):  # another run may have finished it meanwhile
                return _train(place, start, print_of_start, layout)
    made = json.loads((place.model / FINGERPRINT_FILE).read_text(encoding="utf-8"))["fingerprint"]
    if made != print_of_start:
        raise UserError(
            f"{place.model} was trained with another configuration: choose another output_dir, or remove {place.folder} to train again"
        )
    return read_parts(str(place.model))


def _train(place: StagePlace, start: ModelParts, print_of_start: str, layout: Layout) -> ModelParts:
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
    chosen = trainer.run()
    layout.on_first(lambda: _write_model(place, start, model, SavedState(chosen), print_of_start))
    encoder_cache.drop(place, layout)
    return read_parts(str(place.model))


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
    place: StagePlace, start: ModelParts, model: MergedModel, trained: SavedState, print_of_start: str
) -> None:
    """The stage's model, whole or not at all, in the formats others load: Hugging Face folder or mapping file."""
    parts = replace(start, prompt=place.prompt)

    def fill(folder: Path) -> None:
        if place.spec.trains == "mapping":
            assert model.mapping is not None
            mapping = Mapping(model.mapping.encoder_width, model.mapping.llm_width)
            mapping.load_state_dict({key: trained.parameter(f"mapping.{key}") for key in mapping_files.KEYS})
            mapping_files.write(mapping, folder / "mapping.safetensors")
            write_parts(folder, replace(parts, mapping="mapping.safetensors"))
        else:
            export(model.language_model, lambda name: trained.parameter(TRUNK_PREFIX + name), folder)
            own: LanguageModelConfig = start.language_model.model_copy(update={"path": ".", "revision": None})
            write_parts(folder, replace(parts, language_model=own))
        write_json(folder / FINGERPRINT_FILE, {"fingerprint": print_of_start})

    write_directory(place.model, fill)
