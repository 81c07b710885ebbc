"""Handing a trained language model on: a Hugging Face folder written shard by shard, never whole in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from mmscale.models.language_model import LanguageModel
from mmscale.parallel.pieces import piece_of

TRUNK_PREFIX = "language_model.causal_lm."
"""What stands before a Hugging Face parameter name inside a MergedModel."""
SHARD_BYTES = 5 * 10**9
"""transformers' own default for its shards."""


def _shards(sizes: dict[str, int], limit: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if shards[-1] and used + size > limit:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += size
    return shards


def export(model: LanguageModel, read: Callable[[str], Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Configuration, tokenizer and safetensors shards of `model`; `read` gives each parameter's trained value by its
    Hugging Face name. Tied weights are written once, as transformers does."""
    parameters = dict(model.causal_lm.named_parameters())
    sizes = {name: _elements(p) * p.element_size() for name, p in parameters.items()}
    shards = _shards(sizes, shard_bytes)
    index: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(
            {name: read(name).to(parameters[name].dtype).contiguous() for name in names},
            folder / file,
            metadata={"format": "pt"},
        )
        index.update(dict.fromkeys(names, file))
    if len(shards) > 1:
        content = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    model.config.save_pretrained(folder)
    if getattr(model.causal_lm, "generation_config", None) is not None:
        model.causal_lm.generation_config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def _elements(parameter: Tensor) -> int:
    """Of the whole parameter, also where this rank holds a part of it."""
    return math.prod(piece_of(parameter).shape)
