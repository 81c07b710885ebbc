"""Rows that come one by one, kept as lines of JSON, so that a program that was killed goes on where it stood.

A line counts when it is whole. What a kill leaves is half a last line, what a power failure leaves is a line of anything:
neither is a row, and what the row stood for is open again. Work whose pieces are known beforehand is in storage/parts.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from mmscale.errors import UserError
from mmscale.progress import say
from mmscale.storage.files import append_lines, atomic_write, first_change, write_json
from mmscale.storage.reading import parse_json

Row = TypeVar("Row")
Key = TypeVar("Key", bound=Hashable)


class DataRanks(Protocol):
    """The processes that fill a log together (parallel/context.py)."""

    @property
    def size(self) -> int: ...
    @property
    def data_rank(self) -> int: ...
    @property
    def tensor_rank(self) -> int: ...
    def barrier(self) -> None: ...
    def on_first(self, action: Callable[[], object]) -> None: ...


@dataclass(frozen=True)
class WorkIdentity:
    """What rows belong to."""

    name: str
    """Digest of everything that decides them, but for these files."""
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Digests of the files at some paths, as far as they are here: others at the same path do not go on with these rows."""


@dataclass(frozen=True)
class RowForm(Generic[Key, Row]):
    """How rows are told apart, written and read."""

    key: Callable[[Row], Key]
    """What a row stands for; of two rows with one key the later counts."""
    to_json: Callable[[Row], dict[str, Any]]
    parse: Callable[[bytes, str], Row | None]
    """The row of (a line, its "file:number"); None where it is damaged, UserError where it is somebody else's."""


def whole_rows(path: Path, parse: Callable[[bytes, str], Row | None], remedy: str, torn: bool = True) -> Iterator[Row]:
    """Rows of a file that may have been cut off; a damaged line is left out and said, with what follows from it.

    Half a last line is what a kill leaves of a file that is appended to, and nothing to tell; a file that is only ever
    written whole (not `torn`) has none, and its last line is read like the others.
    """
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        last = number == len(lines)
        if last and (torn or not line):
            return
        row = parse(line, f"{path}:{number}") if line.strip(b"\0") else None
        if row is not None:
            yield row
        else:
            say(f"{path}:{number} is damaged, as a power failure leaves it: {remedy}")


class RowLog(Generic[Key, Row]):
    """A JSONL that survives being killed: each row once, and whole.

    Several ranks append to a part each; when they begin, and again when all is there, the first brings what is in the
    parts into the one file, whatever the number of ranks was that left them.
    """

    def __init__(
        self,
        path: Path,
        form: RowForm[Key, Row],
        ranks: DataRanks,
        parts: Path,
        *,
        work: WorkIdentity | None,
        alone: bool,
    ) -> None:
        """All ranks open it together. `parts` is a part's path, with a `*` for the rank.

        `work` is what the rows belong to, kept in a neighbour `.fingerprint`: rows of another name are not kept, and UserError
        where other files are at a path; None where the rows say so themselves. `alone`: a process without others appends to
        the file itself.
        """
        self.path, self.form, self.ranks = path, form, ranks
        self._pattern, self._alone = parts, alone
        self._own = (
            path if alone and ranks.size == 1 else parts.with_name(parts.name.replace("*", str(ranks.data_rank)))
        )
        ranks.on_first(lambda: self._take_up(work))
        self.rows = self._held([self.path])
        """What is held, by key, the same on every rank."""

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows of this rank; ranks of a tensor group have the same, and one writes."""
        if self.ranks.tensor_rank == 0:
            append_lines(self._own, map(self._line, rows))

    def collect(self, order: Sequence[Key]) -> None:
        """Every rank's rows into the one file, in an order of keys; all ranks read it."""
        self.ranks.barrier()

        def join() -> None:
            held = self._held([self.path, *self._parts()])
            self._write([held[key] for key in order])

        self.ranks.on_first(join)
        self.rows = self._held([self.path])

    def _take_up(self, work: WorkIdentity | None) -> None:
        """Bring everything that was kept before into the one file."""
        files = [self.path, *self._parts()]
        held, before = self._held(files), None if work is None else self._files_before(work.name)
        if work is not None and before is None and held:
            say(f"{self.path}: its {len(held)} rows are of other settings than now: all is asked again")
            held = {}
        if work is not None and held:
            self._require_same(before or {}, work.files)
        if any(file.is_file() for file in files):
            self._write(held.values())
        if work is not None:
            write_json(self._mark, {"work": work.name, "files": {**(before or {}), **work.files}})

    @property
    def _mark(self) -> Path:
        return self.path.with_suffix(".fingerprint")

    def _files_before(self, name: str) -> dict[str, dict[str, str]] | None:
        """The files that the rows were made with; None where they are of other work, or nothing tells."""
        try:
            mark = parse_json(self._mark.read_bytes().decode())
            return {path: dict(held) for path, held in mark["files"].items()} if mark["work"] == name else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _require_same(self, before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]) -> None:
        for path, held in now.items():
            change = first_change(before.get(path, held), held)
            if change is not None:
                raise UserError(
                    f"{self.path} holds answers of another model than the one that is at {path} now (its {change}): put that "
                    f"model back, or remove {self.path.parent} to ask again"
                )

    def _parts(self) -> list[Path]:
        return sorted(self._pattern.parent.glob(self._pattern.name))

    def _held(self, files: Sequence[Path]) -> dict[Key, Row]:
        return {
            self.form.key(row): row
            for file in files
            for row in whole_rows(
                file,
                self.form.parse,
                "left out, its question is open again",
                torn=self._alone or file != self.path,
            )
        }

    def _write(self, rows: Iterable[Row]) -> None:
        with atomic_write(self.path) as handle:
            handle.writelines(map(self._line, rows))
        for part in self._parts():  # what they held is in the file by now
            part.unlink()

    def _line(self, row: Row) -> str:
        return json.dumps(self.form.to_json(row), ensure_ascii=False) + "\n"
