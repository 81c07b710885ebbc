"""Runs one stage of one method: parts in, parts out; a finished stage is not repeated."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from mmscale.answering.local import LocalAnswerer, models_in_memory
from mmscale.errors import UserError
from mmscale.evaluation.solving import accuracy
from mmscale.models.assembly import (
    PARTS_FILE,
    ModelParts,
    assemble,
    checkpoint_activations,
    portable,
    read_parts,
    require_goes_with,
    trained_with,
    write_parts,
)
from mmscale.models.connectors import connector
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.merge import MergedModel
from mmscale.models.seal import SEAL_FILE, require_unchanged, write_seal
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.zero import partitioned_loading, rounds_masters
from mmscale.progress import detail, say
from mmscale.runs import encoder_cache, settings
from mmscale.runs.stage import Stage
from mmscale.runs.stage_data import StageData
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
from mmscale.training.components import ConnectorComponent, carry_on_connector
from mmscale.training.engines import make_engine
from mmscale.training.fragments import SavedState
from mmscale.training.objective import CausalObjective
from mmscale.training.trainer import Trainer
from mmscale.training.training_run import TrainingRun


def run_stage(stage: Stage, start: ModelParts, context: ParallelContext) -> ModelParts:
    """Train (or go on training, or take as finished) a stage; the parts of the model it made. All ranks call it."""
    start = _beginning(stage, start)
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


def _beginning(stage: Stage, before: ModelParts) -> ModelParts:
    """What a stage begins with: the stage before's model, or the one it names, with the encoder and connector that it reads."""
    named = stage.begins_with
    start = before if named is None else _as_configured(named, stage)
    if stage.encoder is not None and start.encoder is None:
        start = replace(start, encoder=stage.encoder, connector=stage.connector)
    if stage.config.initial_mapping is not None:
        given = connector(start.connector).find(Path(stage.config.initial_mapping).expanduser())
        if start.encoder is not None:
            require_goes_with(given, start.encoder)
        start = replace(start, mapping=str(given))
    return start


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
    if start.encoder is not None:
        laid = context.from_first(lambda: trained_with(start))
        start = replace(start, trained_with={**laid, **start.trained_with})
    context.on_first(lambda: settings.keep(stage, start))
    config, zero = stage.config, stage.run.parallel.zero
    data = StageData(stage).open(context, start.encoder)
    encodes = config.evaluate_task is not None or not encoder_cache.every_row_has_states(data)
    exact = stage.changes_language_model and stage.run.language_model.dtype == "float32"
    if exact and rounds_masters(zero, config):
        say(
            f"{stage.title}: offloaded parameters are rounded to bfloat16 before DeepSpeed makes float32 masters of them"
        )
    loading = partitioned_loading(zero, config, context, exact)
    model, encoder_tokenizer = assemble(start, context, stage.run.seed, loading, encodes)
    for one in stage.components:
        one.make_trainable(model)
    if config.gradient_checkpointing:
        checkpoint_activations(model.language_model)
        if model.encoder is not None and stage.changes_encoder:
            model.encoder.checkpoint_activations()
    torch.manual_seed(stage.run.seed)
    engine = make_engine(CausalObjective(model, equal_calls=zero.stage == 3), config, zero, context)
    scored = _task_accuracy(stage, model, encoder_tokenizer, context) if config.evaluate_task else None
    training = TrainingRun(
        title=stage.title,
        folder=stage.folder,
        config=config,
        seed=stage.run.seed,
        fingerprint=print_of_start,
        trackers=stage.run.trackers,
    )
    trainer = Trainer(training, engine, data, context, stage.run.parallel.interruption, scored)
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


def _task_accuracy(
    stage: Stage, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None, context: ParallelContext
) -> Callable[[], float]:
    """Solves the first rows of the stage's `evaluate_task` with the model as it stands; its modes are left as they were."""
    task = stage.run.evaluation.tasks[stage.config.evaluate_task or ""]
    data = task.data.model_copy(update={"limit_per_language": stage.config.evaluate_task_rows})
    small = task.model_copy(update={"data": data})
    loaded = models_in_memory(stage.title, model, encoder_tokenizer, stage.prompt, "")
    answerer = LocalAnswerer(stage.title, "", lambda: loaded, stage.prompt, dict)

    def measure() -> float:
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        share = accuracy(answerer, small, stage.run.languages, context)
        for module, training in modes:
            module.training = training
        return share

    return measure


def _write_model(
    stage: Stage,
    start: ModelParts,
    model: MergedModel,
    trained: SavedState,
    print_of_start: str,
    context: ParallelContext,
) -> None:
    """The stage's model, whole or not at all, in the formats that others load.

    All ranks call it: shards are written and hashed in turns, so that nobody waits long in a collective.
    """
    folder = temporary_path(stage.model)
    context.on_first(lambda: make_temporary(stage.model))
    try:
        parts, names = replace(portable(start, model), prompt=stage.prompt), list[str]()
        for one in stage.components:
            handed = one.hand_on(model, parts, trained, folder, context)
            parts, names = handed.parts, [*names, *handed.files]
        if parts.encoder is not None and ConnectorComponent.name not in stage.spec.trains:
            handed = carry_on_connector(parts, folder, context)
            parts, names = handed.parts, [*names, *handed.files]
        context.on_first(lambda: write_parts(folder, parts))
        names = [*dict.fromkeys(names), PARTS_FILE]
        hashed = dict(zip(names, context.in_turns([partial(sha256, folder / name) for name in names]), strict=True))
        context.on_first(lambda: _publish(stage.model, folder, print_of_start, hashed))
    except UserError:
        if context.is_first:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _publish(target: Path, folder: Path, fingerprint: str, hashed: dict[str, str]) -> None:
    try:
        write_seal(folder, fingerprint, hashed)
        sync_tree(folder, [name for name in (*hashed, SEAL_FILE) if not name.endswith(".safetensors")])
        publish_directory(folder, target)
    except OSError as error:
        raise cannot_write(target, error) from error
