"""Numbered parts of tensors: long work whose pieces are known beforehand, each made once, by whichever process.

A part `NAME-NNNNN.safetensors` is written whole or not at all. Its header names the work it belongs to, its number and its
rows, and holds the SHA-256 of all of it: one that is damaged, of other work or in another's place is no part, and is
made again. Rows that come in no order are in storage/row_log.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mmscale.errors import UserError
from mmscale.storage.files import atomic_write
from mmscale.storage.tensor_writing import digest

_NOTES = "notes"
"""One key of the metadata for all of them: safetensors writes several in any order, and a part has the same bytes always."""
_DIGEST, _OF = "sha256", "of"


@dataclass(frozen=True)
class Part:
    """One piece of the rows of that name."""

    name: str
    number: int
    rows: range = range(0)
    """None of them where how many there are is known only when the part is made."""

    @property
    def file(self) -> str:
        return f"{self.name}-{self.number:05d}.safetensors"


@dataclass(frozen=True)
class Content:
    """What a part holds."""

    tensors: dict[str, Tensor]
    notes: dict[str, str]


def parts_of(name: str, count: int, size: int) -> list[Part]:
    """The parts of `count` rows, `size` in each but the last."""
    return [Part(name, i, range(begin, min(count, begin + size))) for i, begin in enumerate(range(0, count, size))]


class PartFolder:
    """Parts of one work in a folder. `work` names all that decides their content."""

    def __init__(self, folder: Path, work: str) -> None:
        self.folder, self.work = folder, work

    def path(self, part: Part) -> Path:
        return self.folder / part.file

    def holds(self, part: Part) -> bool:
        """Whether a file of that name is there."""
        return self.path(part).is_file()

    def make(self, part: Part, content: Callable[[], Content]) -> None:
        """Write a part, whole or not at all, unless it is there."""
        if self.holds(part):
            return
        made = content()
        notes = {**made.notes, _OF: self._of(part)}
        sealed = json.dumps({**notes, _DIGEST: digest(made.tensors, notes)})
        with atomic_write(self.path(part), "wb") as handle:
            handle.write(save(made.tensors, {_NOTES: sealed}))

    def read(self, part: Part, hashed: bool = True) -> Content:
        """What was written, bit for bit if `hashed`; UserError otherwise."""
        with self._opened(part) as file:
            notes = self._notes(file, part)
            try:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            except (SafetensorError, TypeError, ValueError) as error:
                raise self._damaged(part, str(error)) from error
        given = notes.pop(_DIGEST, None)
        if hashed and given != digest(tensors, notes):
            raise self._damaged(part, "its hash differs")
        return Content(tensors, notes)

    def notes(self, part: Part) -> dict[str, str]:
        """What is noted of a part; no hash is checked. UserError where it is none."""
        with self._opened(part) as file:
            return self._notes(file, part)

    def mapped(self, part: Part, name: str) -> Any:
        """One tensor, left on the disk: a slice of it is read when it is taken, and no hash is checked."""
        return self._opened(part).get_slice(name)

    def damaged(self, parts: Iterable[Part], hashed: bool = True) -> list[Part]:
        """Those that are missing, cut short or another's by their headers or, if `hashed`, differ in any bit."""
        return [part for part in parts if not self._is_sound(part, hashed)]

    def _is_sound(self, part: Part, hashed: bool) -> bool:
        try:
            if hashed:
                self.read(part)
            else:
                with self._opened(part) as file:
                    self._notes(file, part)
        except UserError:
            return False
        return True

    def _of(self, part: Part) -> str:
        return f"{self.work} {part.name} {part.number} {len(part.rows)}"

    def _opened(self, part: Part) -> Any:
        try:
            return safe_open(self.path(part), framework="pt")
        except (SafetensorError, OSError) as error:
            raise self._damaged(part, str(error)) from error

    def _notes(self, file: Any, part: Part) -> dict[str, str]:
        try:
            notes: dict[str, str] = dict(json.loads(file.metadata()[_NOTES]))
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(part, "its header is none of ours") from error
        if notes.get(_OF) != self._of(part):
            raise self._damaged(part, "it is a part of something else")
        return notes

    def _damaged(self, part: Part, reason: str) -> UserError:
        return UserError(f"{self.path(part)} is damaged ({reason}): start the same command again, it is made again")
