"""Handing a trained language model on: a Hugging Face folder written shard by shard, never whole in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, dtype

from mmscale.models.language_model import LanguageModel
from mmscale.tensor_writing import save_tensors

TRUNK_PREFIX = "language_model.causal_lm."
"""What stands before a Hugging Face parameter name inside a MergedModel."""
SHARD_BYTES = 5 * 10**9
"""transformers' own default for its shards."""


class ShardWriter:
    """Named tensors into safetensors shards, with an index when there are several; holds one shard at a time."""

    def __init__(self, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self._pending: dict[str, Tensor] = {}
        self._written: list[list[str]] = []
        self._used = self._total = 0
        self.dtypes: set[dtype] = set()
        """Of the floating-point tensors added."""

    def add(self, name: str, value: Tensor) -> None:
        size = value.numel() * value.element_size()
        if self._pending and self._used + size > self.shard_bytes:
            self._flush()
        self._pending[name] = value.contiguous()
        self._used += size
        self._total += size
        if value.is_floating_point():
            self.dtypes.add(value.dtype)

    def _file(self, number: int, of: int) -> str:
        return "model.safetensors" if of == 1 else f"model-{number:05d}-of-{of:05d}.safetensors"

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
            file = self._file(number, len(self._written))
            os.rename(self._unfinished(number), self.folder / file)
            weight_map.update(dict.fromkeys(names, file))
        if len(self._written) > 1:
            content = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            (self.folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def export(model: LanguageModel, read: Callable[[str], Tensor], folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Configuration, tokenizer and safetensors shards of `model`; `read` gives each parameter's trained value by its
    Hugging Face name. Tied weights are written once, as transformers does."""
    writer = ShardWriter(folder, shard_bytes)
    for name, parameter in model.causal_lm.named_parameters():
        writer.add(name, read(name).to(parameter.dtype))
    writer.close()
    model.config.save_pretrained(folder)
    if getattr(model.causal_lm, "generation_config", None) is not None:
        model.causal_lm.generation_config.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
