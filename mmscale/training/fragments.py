"""Training state in safetensors files, one a rank: flattened stretches that any layout can be read back into."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmscale.training.engines.base import PARAMETER, Fragment


def rank_file(rank: int) -> str:
    return f"state-{rank:05d}.safetensors"


def write_fragments(path: Path, fragments: Iterable[Fragment]) -> None:
    """One rank's fragments; where each belongs is in the file's metadata."""
    tensors: dict[str, Tensor] = {}
    places: dict[str, list[Any]] = {}
    for fragment in fragments:
        key = f"{fragment.kind}/{fragment.name}"
        tensors[key] = fragment.values.detach().cpu().contiguous()
        places[key] = [fragment.offset, list(fragment.shape)]
    save_file(tensors, path, metadata={"places": json.dumps(places)})


@dataclass(frozen=True)
class _Place:
    file: Path
    offset: int
    size: int


class SavedState:
    """Reads stretches of flattened tensors from all ranks' files, wherever they were cut."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, list[_Place]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        for file in sorted(folder.glob("state-*.safetensors")):
            handle = self._open[file] = safe_open(str(file), framework="pt")
            for key, (offset, shape) in json.loads(handle.metadata()["places"]).items():
                self._places.setdefault(key, []).append(_Place(file, offset, handle.get_slice(key).get_shape()[0]))
                self.shapes[key.split("/", 1)[1]] = tuple(shape)

    def read(self, kind: str, name: str, start: int, stop: int) -> Tensor:
        """Elements start..stop of a flattened tensor; KeyError when it was not saved, ValueError when a part is missing."""
        places = self._places[f"{kind}/{name}"]
        parts = []
        at = start
        for place in sorted(places, key=lambda p: p.offset):
            end = min(stop, place.offset + place.size)
            if place.offset <= at < end:
                view = self._open[place.file].get_slice(f"{kind}/{name}")
                parts.append(view[at - place.offset : end - place.offset])
                at = end
        if at < stop:
            raise ValueError(f"elements {at} to {stop} of {kind}/{name} are in none of the checkpoint's files")
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def parameter(self, name: str) -> Tensor:
        """A whole trained parameter."""
        shape = self.shapes[name]
        return self.read(PARAMETER, name, 0, math.prod(shape)).view(shape)
