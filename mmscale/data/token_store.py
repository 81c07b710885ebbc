"""Tokenised examples on disk: made once in parts that any processes share, mapped into memory afterwards.

A part (storage/parts.py) holds a fixed number of examples: `ids` int32, all ids one after another; `lengths` int32
[n, 3], how many of them are prompt, target and encoder text; `prefixes` int32 [n], rows that the connector makes of the latter;
`truncated` uint8 [n]; `languages` uint8 [n], numbers in the notes' list; `origins` uint8, UTF-8 lines, and `origin_ends` int64 [n]. The folder is named by what decides its content.
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
from torch import Tensor

from mmscale.data.segments import TokenizedExample
from mmscale.storage.parts import Content, Part, PartFolder, parts_of

PART_EXAMPLES = 4096
"""Examples of a part: seconds of work, a few MB."""


def token_folder(folder: Path) -> PartFolder:
    """A folder of tokens."""
    return PartFolder(folder, folder.name)


def token_parts(name: str, count: int) -> list[Part]:
    """The parts of `count` examples."""
    return parts_of(name, count, PART_EXAMPLES)


def content_of(examples: Sequence[TokenizedExample]) -> Content:
    """What a part of these examples holds."""
    fields = [(e.prompt_ids, e.target_ids, e.encoder_ids) for e in examples]
    languages = sorted({e.language for e in examples})
    origins = [e.origin.encode() for e in examples]
    tensors = {
        "ids": torch.tensor([i for parts in fields for ids in parts for i in ids], dtype=torch.int32),
        "lengths": torch.tensor([[len(ids) for ids in parts] for parts in fields], dtype=torch.int32),
        "prefixes": torch.tensor([e.prefix_length for e in examples], dtype=torch.int32),
        "truncated": torch.tensor([e.truncated for e in examples], dtype=torch.uint8),
        "languages": torch.tensor([languages.index(e.language) for e in examples], dtype=torch.uint8),
        "origins": torch.frombuffer(bytearray(b"".join(origins) or b"\0"), dtype=torch.uint8),
        "origin_ends": torch.tensor(list(itertools.accumulate(map(len, origins))), dtype=torch.int64),
    }
    return Content(tensors, {"languages": json.dumps(languages)})


class _Examples:
    """The examples of a part."""

    def __init__(self, content: Content) -> None:
        tensors = content.tensors
        self.languages: list[str] = json.loads(content.notes["languages"])
        self.ids, self.lengths, self.prefixes = tensors["ids"], tensors["lengths"], tensors["prefixes"]
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
            prefix_length=int(self.prefixes[i]),
        )


class TokenStore(Sequence[TokenizedExample]):
    """The examples of a finished set of parts; nothing but what is looked at enters memory."""

    def __init__(self, folder: Path, name: str, count: int) -> None:
        self.folder, self.name, self.size = folder, name, count
        self._parts = token_parts(name, count)
        self._ends = [part.rows.stop for part in self._parts]
        self._examples = functools.cache(lambda number: _Examples(token_folder(folder).read(self._parts[number])))

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
        return self._examples(number).example(index - self._parts[number].rows.start)

    def digest(self) -> str:
        """SHA-256 of all ids of all examples, in order: the same whatever connector reads their encoder states."""
        hashed = hashlib.sha256(f"{self.name} {self.size}".encode())
        for examples in map(self._examples, range(len(self._parts))):
            hashed.update(examples.lengths.numpy().data)
            hashed.update(examples.ids.numpy().data)
        return hashed.hexdigest()

    def field_lengths(self) -> Tensor:
        """Tokens of prompt, target and encoder text of every example, int32 [N, 3]."""
        lengths = [self._examples(number).lengths for number in range(len(self._parts))]
        return torch.cat(lengths) if lengths else torch.zeros(0, 3, dtype=torch.int32)

    def merged_lengths(self) -> list[int]:
        """TokenizedExample.merged_length of every example."""
        prompt, target, _ = self.field_lengths().long().unbind(1)
        prefixes = [self._examples(number).prefixes for number in range(len(self._parts))]
        prefix = torch.cat(prefixes).long() if prefixes else prompt
        return (1 + prefix + prompt + (target - 1).clamp(min=0)).tolist()


def merged_lengths(examples: Sequence[TokenizedExample]) -> list[int]:
    """The merged length of each example, in memory or on disk."""
    if isinstance(examples, TokenStore):
        return examples.merged_lengths()
    return [example.merged_length for example in examples]
