"""Whether a stage's encoder states are kept on disk, and where."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from mmscale.config.model import EncoderConfig
from mmscale.config.training import StageConfig
from mmscale.data.token_store import TokenStore
from mmscale.errors import UserError
from mmscale.models.connectors import connector
from mmscale.models.counting import encoder_depth, encoder_width
from mmscale.models.encoders import load_encoder
from mmscale.models.encoders.base import state_shape
from mmscale.models.loading import DTYPES
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import say
from mmscale.runs.stage import Stage
from mmscale.training.encoder_cache import CacheFolder, WithStates, size_of, with_states
from mmscale.training.trainer import TrainingData

AUTO, OFF = "auto", "off"
WORTHWHILE_PASSES = 2.0
"""Making the states costs one pass over the data."""
FREE_SHARE = 0.5
"""Largest share of the free disk that `auto` takes."""


def own_folder(stage: Stage) -> Path:
    """The folder of `encoder_cache: auto`."""
    return stage.folder / "encoder_states"


def cache_place(stage: Stage) -> CacheFolder | None:
    """Where the configuration wants the states; None for `off`."""
    chosen = stage.run.encoder_cache
    if chosen == OFF:
        return None
    if chosen == AUTO:
        return CacheFolder(own_folder(stage), True, stage.title)
    return CacheFolder(Path(chosen) / stage.name, False, stage.title)


def wanted(stage: Stage, examples: float, merged_tokens: float) -> bool:
    """Whether the configuration asks for a stage's states on disk, or leaves it open and they pay; never of an encoder that
    the stage changes.
    """
    if stage.changes_encoder:
        return False
    chosen = stage.run.encoder_cache
    if chosen != AUTO:
        return chosen != OFF
    return passes(stage.config, examples, merged_tokens) >= WORTHWHILE_PASSES


def passes(config: StageConfig, examples: float, merged_tokens: float) -> float:
    """How often a stage goes over its data."""
    if config.epochs is not None:
        return config.epochs
    packing = config.packing
    if packing.global_batch_size is not None:
        return (config.steps or 0) * packing.global_batch_size / examples
    return (config.steps or 0) * (packing.global_batch_tokens or 0) / merged_tokens


def cached(stage: Stage, config: EncoderConfig, data: TrainingData, context: ParallelContext) -> TrainingData:
    """The same examples with encoder states from disk, where the configuration asks for them or they pay.

    The encoder is in memory for as long as this takes. Raises UserError when a folder that was asked for has too little
    room, or holds the states of something else.
    """
    where = cache_place(stage)
    stores = {store.name: store for store in (data.train, data.dev) if isinstance(store, TokenStore) and len(store)}
    if where is None or "train" not in stores:
        return data
    tokens = int(stores["train"].merged_lengths().sum())
    if not wanted(stage, len(data.train), tokens):
        return data
    all_layers = connector(stage.connector).reads_all_layers
    shape = state_shape(encoder_width(config), encoder_depth(config) if all_layers else None)
    size = size_of(stores, shape, DTYPES[config.dtype])[1]
    if not context.from_first(lambda: _has_room(where, size)):
        return data
    encoder = load_encoder(config, context.device, all_layers)
    kept = with_states(encoder, stores, where, context, Interruption(stage.run.parallel.interruption, context))
    return replace(data, train=kept["train"], dev=kept.get("dev", data.dev))


def every_row_has_states(data: TrainingData) -> bool:
    """Whether the encoder is needed no more."""
    return all(isinstance(part, WithStates) or not len(part) for part in (data.train, data.dev))


def _has_room(where: CacheFolder, size: int) -> bool:
    """Whether the states fit the disk; where they were asked for by path, writing them says so itself."""
    existing = next(folder for folder in (where.folder, *where.folder.absolute().parents) if folder.exists())
    held = sum(file.stat().st_size for file in where.folder.glob("*.safetensors")) if where.folder.is_dir() else 0
    room = size - held <= FREE_SHARE * shutil.disk_usage(existing).free
    if not room and not where.renewable:
        raise UserError(
            f"encoder states of {where.title} take {size / 1e9:.1f} GB, more than half of what is free at {existing}: "
            f"free space, or set encoder_cache=off"
        )
    if not room:
        say(
            f"{where.title}: {size / 1e9:.1f} GB of encoder states do not fit the disk well; the encoder runs every step"
        )
    return room


def drop(stage: Stage, context: ParallelContext) -> None:
    """Remove what `auto` kept: a finished stage needs it no more."""
    context.on_first(lambda: shutil.rmtree(own_folder(stage), ignore_errors=True))
