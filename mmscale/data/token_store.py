"""Tokenised examples on disk: made once in parts that any processes share, mapped into memory afterwards.

A part (storage/parts.py) holds the examples of a piece of the rows of a data set, language after language: `ids` int32, all ids one after another; `lengths` int32
[n, 3], how many of them are prompt, target and encoder text; `prefixes` int32 [n], rows that the connector makes of the latter;
`truncated` uint8 [n]; `languages` uint8 [n], numbers in the notes' list; `origins` uint8, UTF-8 lines, and `origin_ends` int64 [n]. The folder is named by what decides its content.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from mmscale.data.segments import TokenizedExample
from mmscale.storage.parts import Content, Part, PartFolder

_OPEN_PARTS = 64
"""Parts that are mapped at a time; each has a few MB."""
_DIGESTED = 4096
"""Examples that are hashed at a time; another number makes another digest."""


def token_folder(folder: Path) -> PartFolder:
    """A folder of tokens."""
    return PartFolder(folder, folder.name)


@dataclass(frozen=True)
class PartRun:
    """Examples that lie together in a part."""

    part: Part
    start: int
    count: int


def content_of(examples: Sequence[TokenizedExample], notes: Mapping[str, str] | None = None) -> Content:
    """What a part of these examples holds, and what is noted of it."""
    fields = [(e.prompt_ids, e.target_ids, e.encoder_ids) for e in examples]
    languages = sorted({e.language for e in examples})
    origins = [e.origin.encode() for e in examples]
    tensors = {
        "ids": torch.tensor([i for parts in fields for ids in parts for i in ids], dtype=torch.int32),
        "lengths": torch.tensor([[len(ids) for ids in parts] for parts in fields], dtype=torch.int32).reshape(-1, 3),
        "prefixes": torch.tensor([e.prefix_length for e in examples], dtype=torch.int32),
        "truncated": torch.tensor([e.truncated for e in examples], dtype=torch.uint8),
        "languages": torch.tensor([languages.index(e.language) for e in examples], dtype=torch.uint8),
        "origins": torch.frombuffer(bytearray(b"".join(origins) or b"\0"), dtype=torch.uint8),
        "origin_ends": torch.tensor(list(itertools.accumulate(map(len, origins))), dtype=torch.int64),
    }
    return Content(tensors, {"languages": json.dumps(languages), **(notes or {})})


class _Examples:
    """The examples of a part."""

    def __init__(self, content: Content) -> None:
        tensors = content.tensors
        self.languages: list[str] = json.loads(content.notes["languages"])
        self.ids, self.lengths, self.prefixes = tensors["ids"], tensors["lengths"], tensors["prefixes"]
        self.truncated, self.of = tensors["truncated"], tensors["languages"]
        self.origins, self.origin_ends = tensors["origins"], tensors["origin_ends"]
        self.ends = self.lengths.sum(1).cumsum(0)

    @property
    def merged_lengths(self) -> Tensor:
        """Rows of each example in the LLM's input, int32 [n]."""
        prompt, target, _ = self.lengths.unbind(1)
        return 1 + self.prefixes + prompt + (target - 1).clamp(min=0)

    def ids_of(self, i: int) -> Tensor:
        """Prompt, target and encoder text of an example, one after another."""
        stop = int(self.ends[i])
        return self.ids[stop - int(self.lengths[i].sum()) : stop]

    def example(self, i: int) -> TokenizedExample:
        prompt, target, _ = self.lengths[i].tolist()
        ids = self.ids_of(i).tolist()
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
    """Examples of a finished set of parts; nothing but what is looked at enters memory, and little of it stays."""

    def __init__(self, folder: Path, name: str, runs: Sequence[PartRun], numbers: np.ndarray | None = None) -> None:
        """The examples of the runs, one after another, or those of these `numbers` among them alone."""
        self.folder, self.name, self.runs, self.numbers = folder, name, runs, numbers
        self._ends = np.cumsum([run.count for run in runs])
        self._whole = set[Part]()
        self._examples = functools.lru_cache(_OPEN_PARTS)(self._opened)

    def _opened(self, part: Part) -> _Examples:
        """The examples of a part, whose hash is looked at the first time."""
        content = token_folder(self.folder).read(part, hashed=part not in self._whole)
        self._whole.add(part)
        return _Examples(content)

    def __len__(self) -> int:
        return sum(run.count for run in self.runs) if self.numbers is None else len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[TokenizedExample]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        part, row = self._place(index % len(self))
        return self._examples(part).example(row)

    def _place(self, index: int) -> tuple[Part, int]:
        """The part of an example, and its row there."""
        number = index if self.numbers is None else int(self.numbers[index])
        place = int(np.searchsorted(self._ends, number, side="right"))
        run = self.runs[place]
        return run.part, run.start + number - int(self._ends[place]) + run.count

    def digest(self) -> str:
        """SHA-256 of all ids of all examples, in order: the same whatever connector reads their encoder states."""
        hashed = hashlib.sha256(f"{self.name} {len(self)}".encode())
        lengths = self.field_lengths()
        for begin in range(0, len(self), _DIGESTED):
            places = [self._place(i) for i in range(begin, min(len(self), begin + _DIGESTED))]
            hashed.update(lengths[begin : begin + _DIGESTED].numpy().data)
            hashed.update(torch.cat([self._examples(part).ids_of(row) for part, row in places]).numpy().data)
        return hashed.hexdigest()

    def _of_every(self, field: Callable[[_Examples], Tensor], empty: Tensor) -> Tensor:
        """A field of every example; each part is looked at once."""
        held = {part: field(self._examples(part)).clone() for part in dict.fromkeys(run.part for run in self.runs)}
        whole = torch.cat([empty, *(held[run.part][run.start : run.start + run.count] for run in self.runs)])
        return whole if self.numbers is None else whole[torch.from_numpy(self.numbers).long()]

    def field_lengths(self) -> Tensor:
        """Tokens of prompt, target and encoder text of every example, int32 [N, 3]."""
        return self._of_every(lambda examples: examples.lengths, torch.zeros(0, 3, dtype=torch.int32))

    def merged_lengths(self) -> np.ndarray:
        """TokenizedExample.merged_length of every example, int32 [N]."""
        return self._of_every(lambda examples: examples.merged_lengths, torch.zeros(0, dtype=torch.int32)).numpy()


def merged_lengths(examples: Sequence[TokenizedExample]) -> np.ndarray:
    """The merged length of each example, in memory or on disk: int32 [N]."""
    if isinstance(examples, TokenStore):
        return examples.merged_lengths()
    return np.array([example.merged_length for example in examples], dtype=np.int32)
