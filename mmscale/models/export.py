"""Handing a trained language model on: a Hugging Face folder written shard by shard, never whole in memory."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from mmscale.models.language_model import LanguageModel
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.shards import shard_of
from mmscale.storage.files import cannot_write, sync_tree, write_json
from mmscale.storage.tensor_writing import save_tensors

TRUNK_PREFIX = "language_model.causal_lm."
"""What stands before a Hugging Face parameter name inside a MergedModel."""
SHARD_BYTES = 5 * 10**9
"""transformers' own default for its shards."""


def shard_name(number: int, of: int) -> str:
    """Name of the `number`-th shard, from 1; loaders look for these names."""
    return SAFE_WEIGHTS_NAME if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"


class ShardWriter:
    """Named tensors into safetensors shards, with an index when there are several; holds one shard at a time."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._written: list[list[str]] = []
        self._used = self._total = 0
        self.dtypes: set[torch.dtype] = set()
        """Dtypes of the floating-point tensors added."""

    def add(self, name: str, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if self._pending and self._used + size > self.shard_bytes:
            self._flush()
        self._pending[name] = value.contiguous()
        self._used += size
        self._total += size
        if value.is_floating_point():
            self.dtypes.add(value.dtype)

    def _unfinished(self, number: int) -> Path:
        return self.folder / f"model-{number:05d}.part"

    def _flush(self) -> None:
        self._written.append(list(self._pending))
        save_tensors(self._pending, self._unfinished(len(self._written)), metadata={"format": "pt"})
        self._pending, self._used = {}, 0

    def close(self) -> None:
        """Write what is left; only now the shards have the names that loaders look for."""
        self._flush()
        weight_map: dict[str, str] = {}
        for number, names in enumerate(self._written, start=1):
            file = shard_name(number, len(self._written))
            os.rename(self._unfinished(number), self.folder / file)
            weight_map.update(dict.fromkeys(names, file))
        if len(self._written) > 1:
            content = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def export(
    model: LanguageModel,
    read: Callable[[str], Tensor],
    folder: Path,
    context: ParallelContext,
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Configuration, tokenizer and safetensors shards of `model`, the shards by all ranks in turns; names of the files.

    `read` gives each parameter's trained value by its Hugging Face name. Tied weights are written once, as transformers
    does. Raises UserError on every rank where one cannot write.
    """
    parameters = dict(model.causal_lm.named_parameters())
    dtypes = {name: _written_dtype(model, p.dtype) for name, p in parameters.items()}
    sizes = {name: math.prod(shard_of(p).shape) * dtypes[name].itemsize for name, p in parameters.items()}
    shards = _planned(sizes, shard_bytes)
    names = [shard_name(number, len(shards)) for number in range(1, len(shards) + 1)]

    def write(shard: list[str], name: str) -> None:
        values = {key: read(key).to(dtypes[key]).contiguous() for key in shard}
        try:
            save_tensors(values, folder / name, metadata={"format": "pt"})
            sync_tree(folder, [name])
        except OSError as error:
            raise cannot_write(folder / name, error) from error

    context.in_turns([partial(write, shard, name) for shard, name in zip(shards, names, strict=True)])
    index = {key: name for shard, name in zip(shards, names, strict=True) for key in shard}
    context.on_first(lambda: _write_besides(model, folder, index, sum(sizes.values())))
    return sorted(
        context.from_first(lambda: [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()])
    )


def _written_dtype(model: LanguageModel, held: torch.dtype) -> torch.dtype:
    """The dtype that a model was loaded in: under DeepSpeed with precision bfloat16 its parameters are working copies."""
    loaded = getattr(model.config, "dtype", None)
    return torch.promote_types(held, loaded) if isinstance(loaded, torch.dtype) else held


def _planned(sizes: dict[str, int], shard_bytes: int) -> list[list[str]]:
    """Names by shard, in order, each shard as full as it goes."""
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def _write_besides(model: LanguageModel, folder: Path, index: dict[str, str], total: int) -> None:
    """Everything but the shards; whoever loads it begins and ends texts with the tokens that the model was trained with."""
    try:
        if len(set(index.values())) > 1:
            write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": index})
        bos, eos = model.specials.bos, model.specials.eos
        config, tokenizer = copy.deepcopy(model.config), copy.deepcopy(model.tokenizer)
        config.bos_token_id, config.eos_token_id = bos, eos
        config.save_pretrained(folder)
        generation = copy.deepcopy(getattr(model.causal_lm, "generation_config", None))
        if generation is not None:
            stops = [eos, *sorted(model.stop_ids - {eos})]
            generation.bos_token_id, generation.eos_token_id = bos, stops if len(stops) > 1 else eos
            generation.save_pretrained(folder)
        tokenizer.bos_token, tokenizer.eos_token = tokenizer.convert_ids_to_tokens([bos, eos])
        tokenizer.save_pretrained(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error
