"""Training state in safetensors files, one a rank: flattened stretches that any layout can be read back into."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mmscale.parallel.pieces import Piece, whole_piece
from mmscale.storage.tensor_writing import TensorFile, header_bytes
from mmscale.training.engines.base import MOMENTS, PARAMETER, Engine
from mmscale.training.manifest import state_files


def write_fragments(path: Path, engine: Engine) -> None:
    """One rank's fragments, one after another; where each belongs is in the file's metadata."""
    keys = [f"{kind}/{name}" for name in engine.shapes() for kind in (PARAMETER, *MOMENTS)]
    places: dict[str, list[Any]] = {}
    with TensorFile(path, header_bytes(keys)) as file:
        for fragment in engine.fragments():
            key, piece = f"{fragment.kind}/{fragment.name}", fragment.piece
            file.add(key, fragment.values)
            places[key] = [list(piece.shape), piece.dimension, piece.begin, piece.size, fragment.offset]
        file.metadata = {"places": json.dumps(places)}


@dataclass(frozen=True)
class _Place:
    """A stretch of a flattened piece, in a file."""

    file: Path
    piece: Piece
    offset: int
    size: int


class SavedState:
    """Reads stretches of flattened tensors from all ranks' files, wherever they were cut."""

    def __init__(self, folder: Path) -> None:
        """Of a checkpoint whose files are known to be whole; those of its manifest alone are read."""
        self._places: dict[str, list[_Place]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        self._whole: tuple[str, Tensor] | None = None
        for file in state_files(folder):
            handle = self._open[file] = safe_open(str(file), framework="pt")
            for key, (shape, dimension, begin, size, offset) in json.loads(handle.metadata()["places"]).items():
                place = _Place(
                    file, Piece(tuple(shape), dimension, begin, size), offset, handle.get_slice(key).get_shape()[0]
                )
                self._places.setdefault(key, []).append(place)
                self.shapes[key.split("/", 1)[1]] = place.piece.shape

    def read(self, kind: str, name: str, piece: Piece, start: int, stop: int) -> Tensor:
        """Elements start..stop of a flattened piece; KeyError when it was not saved, ValueError when a part is missing.

        A piece that was saved as such is read without the rest of its tensor.
        """
        key = f"{kind}/{name}"
        if any(place.piece == piece for place in self._places[key]):
            return self._stretch(key, piece, start, stop)
        return piece.of(self._assembled(key)).flatten()[start:stop]

    def parameter(self, name: str) -> Tensor:
        """A whole trained parameter."""
        piece = whole_piece(self.shapes[name])
        return self.read(PARAMETER, name, piece, 0, math.prod(piece.shape)).view(piece.shape)

    def _stretch(self, key: str, piece: Piece, start: int, stop: int) -> Tensor:
        parts = []
        at = start
        for place in sorted((p for p in self._places[key] if p.piece == piece), key=lambda p: p.offset):
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
            pieces = {place.piece for place in self._places[key]}
            whole = torch.empty(next(iter(pieces)).shape)
            if sum(piece.elements for piece in pieces) < whole.numel():
                raise ValueError(f"a part of {key} is in none of the checkpoint's files")
            for piece in pieces:
                piece.of(whole).copy_(self._stretch(key, piece, 0, piece.elements).view(piece.local_shape))
            self._whole = key, whole
        return self._whole[1]
