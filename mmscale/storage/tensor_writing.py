"""Writing safetensors files a tensor at a time: the library's own writer wants all of them in memory at once.

A rank's training state lies on a GPU or a disk, and is brought into host memory piece by piece.

The format: 8 bytes with the header's length, little-endian; the header, a JSON object padded with spaces; the values,
end to end (https://huggingface.co/docs/safetensors). The header stands first but is known last, so room is left for it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ENTRY_BYTES = 400
"""A tensor's share of the header, its name (which stands there twice) apart: shape, offsets and a caller's note."""


def header_bytes(names: list[str]) -> int:
    """Room that is enough for tensors of these names, with a short note each in the metadata."""
    return sum(4 * len(name.encode()) + _ENTRY_BYTES for name in names) + 4096


class TensorFile:
    """A safetensors file being written; it is none before its `with` block ended without an error.

    Raises OSError when it cannot be written, ValueError for a dtype that the format does not have.
    """

    def __init__(self, path: Path, room: int) -> None:
        self._file = open(path, "wb")
        self._room = -(-room // 8) * 8
        self._file.seek(8 + self._room)
        self._entries: dict[str, object] = {}
        self._end = 0
        self.metadata: dict[str, str] = {}

    def add(self, name: str, value: Tensor) -> None:
        """Write one tensor; of another device, it is copied by itself."""
        if value.dtype not in _NAMES:
            raise ValueError(f"safetensors has no {value.dtype} ({name})")
        plain = value.detach().to("cpu").contiguous()
        begin, self._end = self._end, self._end + plain.numel() * plain.element_size()
        self._entries[name] = {
            "dtype": _NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [begin, self._end],
        }
        if plain.numel():
            self._file.write(plain.reshape(-1).view(torch.uint8).numpy().data)

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        with self._file:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        metadata = {"__metadata__": self.metadata} if self.metadata else {}
        header = json.dumps({**metadata, **self._entries}).encode()
        if len(header) > self._room:
            raise ValueError(f"a header of {len(header)} bytes does not fit the {self._room} that were left for it")
        self._file.truncate(8 + self._room + self._end)  # where there are no values at all
        self._file.seek(0)
        self._file.write(self._room.to_bytes(8, "little") + header.ljust(self._room))


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """All of some tensors, straight into `path`."""
    notes = sum(len(text) for text in (metadata or {}).values())
    with TensorFile(path, header_bytes(list(tensors)) + 2 * notes) as file:
        file.metadata = metadata or {}
        for name, value in tensors.items():
            file.add(name, value)


def digest(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    """SHA-256 of names, dtypes, shapes and values, and of what is noted beside them."""
    outline = [[name, str(value.dtype), list(value.shape)] for name, value in sorted(tensors.items())]
    hashed = hashlib.sha256(json.dumps([notes, outline], sort_keys=True).encode())
    for _, value in sorted(tensors.items()):
        if value.numel():
            hashed.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
