"""Training state in safetensors files, one per rank: flattened stretches that any layout can be read back into."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mmscale.parallel.shards import Shard, whole_shard
from mmscale.storage.tensor_writing import TensorFile, header_bytes
from mmscale.training.engines.base import MOMENTS, PARAMETER, Engine
from mmscale.training.manifest import state_files


def write_fragments(path: Path, engine: Engine) -> None:
    """One rank's fragments, one after another; where each belongs is in the file's metadata."""
    keys = [f"{kind}/{name}" for name in engine.shapes() for kind in (PARAMETER, *MOMENTS)]
    places: dict[str, list[Any]] = {}
    with TensorFile(path, header_bytes(keys)) as file:
        for fragment in engine.fragments():
            key, shard = f"{fragment.kind}/{fragment.name}", fragment.shard
            file.add(key, fragment.values)
            places[key] = [list(shard.shape), shard.dimension, shard.begin, shard.size, fragment.offset]
        file.metadata = {"places": json.dumps(places)}


@dataclass(frozen=True)
class _SavedRange:
    """A stretch of a flattened piece, in a file."""

    file: Path
    shard: Shard
    offset: int
    size: int


class SavedState:
    """Reads stretches of flattened tensors from all ranks' files, wherever they were cut."""

    def __init__(self, folder: Path) -> None:
        """Open a checkpoint whose files are known to be whole; those of its manifest alone are read."""
        self._places: dict[str, list[_SavedRange]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        self._whole: tuple[str, Tensor] | None = None
        for file in state_files(folder):
            handle = self._open[file] = safe_open(str(file), framework="pt")
            for key, (shape, dimension, begin, size, offset) in json.loads(handle.metadata()["places"]).items():
                place = _SavedRange(
                    file, Shard(tuple(shape), dimension, begin, size), offset, handle.get_slice(key).get_shape()[0]
                )
                self._places.setdefault(key, []).append(place)
                self.shapes[key.split("/", 1)[1]] = place.shard.shape

    def read(self, kind: str, name: str, shard: Shard, start: int, stop: int) -> Tensor:
        """Elements start..stop of a flattened piece; KeyError when it was not saved, ValueError when a part is missing.

        A piece that was saved as such is read without the rest of its tensor.
        """
        key = f"{kind}/{name}"
        if any(place.shard == shard for place in self._places[key]):
            return self._stretch(key, shard, start, stop)
        return shard.of(self._assembled(key)).flatten()[start:stop]

    def parameter(self, name: str) -> Tensor:
        """A whole trained parameter."""
        shard = whole_shard(self.shapes[name])
        return self.read(PARAMETER, name, shard, 0, math.prod(shard.shape)).view(shard.shape)

    def _stretch(self, key: str, shard: Shard, start: int, stop: int) -> Tensor:
        parts = []
        at = start
        for place in sorted((p for p in self._places[key] if p.shard == shard), key=lambda p: p.offset):
            end = min(stop, place.offset + place.size)
            if place.offset <= at < end:
                parts.append(self._open[place.file].get_slice(key)[at - place.offset : end - place.offset])
                at = end
        if at < stop:
            raise ValueError(f"elements {at} to {stop} of {key} are in none of the checkpoint's files")
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _assembled(self, key: str) -> Tensor:
        """A tensor put together from its pieces; the last one is kept, since its stretches are asked for in a row."""
        if self._whole is None or self._whole[0] != key:
            shards = {place.shard for place in self._places[key]}
            whole = torch.empty(next(iter(shards)).shape)
            if sum(shard.elements for shard in shards) < whole.numel():
                raise ValueError(f"a part of {key} is in none of the checkpoint's files")
            for shard in shards:
                shard.of(whole).copy_(self._stretch(key, shard, 0, shard.elements).view(shard.local_shape))
            self._whole = key, whole
        return self._whole[1]
