"""Tokenised examples on disk: made once in parts that any processes share, mapped into memory afterwards.

A part `NAME-NNNNN.safetensors` holds a fixed number of examples: `ids` int32, all ids one after another; `lengths` int32
[n, 3], how many of them are prompt, target and encoder text; `truncated` uint8 [n]; `languages` uint8 [n], numbers in the
metadata's list; `origins` uint8, UTF-8 lines, and `origin_ends` int64 [n]. A part carries the hash of all of it, checked
when it is opened. The index is written when every part is there.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmscale.data.segments import TokenizedExample
from mmscale.errors import UserError
from mmscale.storage.files import atomic_write
from mmscale.storage.tensor_writing import digest

PART_EXAMPLES = 4096
"""Examples of a part: seconds of work, a few MB."""
_DIGEST = "sha256"
_NOTES = "notes"
"""One key of the metadata for all of them: safetensors writes several in any order, and a part has the same bytes always."""
_REMEDY = "start the same command again, it is made again"


def part_path(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05d}.safetensors"


def parts_of(count: int) -> int:
    return -(-count // PART_EXAMPLES)


def write_part(folder: Path, name: str, number: int, examples: Sequence[TokenizedExample]) -> None:
    """One part, whole or not at all."""
    fields = [(e.prompt_ids, e.target_ids, e.encoder_ids) for e in examples]
    languages = sorted({e.language for e in examples})
    origins = [e.origin.encode() for e in examples]
    tensors = {
        "ids": torch.tensor([i for parts in fields for ids in parts for i in ids], dtype=torch.int32),
        "lengths": torch.tensor([[len(ids) for ids in parts] for parts in fields], dtype=torch.int32),
        "truncated": torch.tensor([e.truncated for e in examples], dtype=torch.uint8),
        "languages": torch.tensor([languages.index(e.language) for e in examples], dtype=torch.uint8),
        "origins": torch.frombuffer(bytearray(b"".join(origins) or b"\0"), dtype=torch.uint8),
        "origin_ends": torch.tensor(list(itertools.accumulate(map(len, origins))), dtype=torch.int64),
    }
    notes = {"languages": json.dumps(languages), "name": f"{name} {number}"}
    with atomic_write(part_path(folder, name, number), "wb") as handle:
        handle.write(save(tensors, {_NOTES: json.dumps({**notes, _DIGEST: digest(tensors, notes)})}))


def part_size(folder: Path, name: str, number: int, hashed: bool) -> int | None:
    """Examples of a part by its header, or None where it is missing, cut short, something else or, if `hashed`, another in
    any bit.
    """
    path = part_path(folder, name, number)
    try:
        with safe_open(path, framework="pt") as file:
            size = int(file.get_slice("lengths").get_shape()[0])
        if hashed:
            _Part(path, name, number)
    except (SafetensorError, OSError, ValueError, IndexError, UserError):
        return None
    return size


class _Part:
    """One mapped file; UserError where it is not, bit for bit, what was written as this part."""

    def __init__(self, path: Path, name: str, number: int) -> None:
        try:
            with safe_open(path, framework="pt") as file:
                tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                notes: dict[str, str] = dict(json.loads((file.metadata() or {}).get(_NOTES, "{}")))
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): {_REMEDY}") from error
        if notes.pop(_DIGEST, None) != digest(tensors, notes) or notes.get("name") != f"{name} {number}":
            raise UserError(f"{path} is damaged (its hash differs): {_REMEDY}")
        self.languages: list[str] = json.loads(notes["languages"])
        self.ids, self.lengths = tensors["ids"], tensors["lengths"]
        self.truncated, self.of = tensors["truncated"], tensors["languages"]
        self.origins, self.origin_ends = tensors["origins"], tensors["origin_ends"]
        self.ends = self.lengths.sum(1).cumsum(0)

    def example(self, i: int) -> TokenizedExample:
        prompt, target, encoder = self.lengths[i].tolist()
        stop = int(self.ends[i])
        ids = self.ids[stop - prompt - target - encoder : stop].tolist()
        origin_start = int(self.origin_ends[i - 1]) if i else 0
        origin = bytes(self.origins[origin_start : int(self.origin_ends[i])].tolist()).decode()
        return TokenizedExample(
            prompt_ids=tuple(ids[:prompt]),
            target_ids=tuple(ids[prompt : prompt + target]),
            encoder_ids=tuple(ids[prompt + target :]),
            language=self.languages[int(self.of[i])],
            origin=origin,
            truncated=bool(self.truncated[i]),
        )


class TokenStore(Sequence[TokenizedExample]):
    """The examples of a finished set of parts; nothing but what is looked at enters memory."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self.folder, self.name, self.size = folder, name, count
        self._ends = [min(count, (i + 1) * PART_EXAMPLES) for i in range(parts_of(count))]
        self._part = functools.cache(lambda number: _Part(part_path(folder, name, number), name, number))

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TokenizedExample]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self.size))]
        if not -self.size <= index < self.size:
            raise IndexError(index)
        index %= self.size
        number = bisect.bisect_right(self._ends, index)
        return self._part(number).example(index - number * PART_EXAMPLES)

    def digest(self) -> str:
        """SHA-256 of all ids of all examples, in order."""
        found = hashlib.sha256(f"{self.name} {self.size}".encode())
        for part in map(self._part, range(len(self._ends))):
            found.update(part.lengths.numpy().data)
            found.update(part.ids.numpy().data)
        return found.hexdigest()

    def field_lengths(self) -> Tensor:
        """Tokens of prompt, target and encoder text of every example, int32 [N, 3]."""
        parts = [self._part(number).lengths for number in range(len(self._ends))]
        return torch.cat(parts) if parts else torch.zeros(0, 3, dtype=torch.int32)

    def merged_lengths(self) -> list[int]:
        """TokenizedExample.merged_length of every example."""
        prompt, target, encoder = self.field_lengths().long().unbind(1)
        prefix = torch.where(encoder > 0, encoder + 1, encoder)
        return (1 + prefix + prompt + (target - 1).clamp(min=0)).tolist()


def merged_lengths(examples: Sequence[TokenizedExample]) -> list[int]:
    """The merged length of each example, in memory or on disk."""
    if isinstance(examples, TokenStore):
        return examples.merged_lengths()
    return [example.merged_length for example in examples]
