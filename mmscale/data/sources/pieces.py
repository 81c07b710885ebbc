"""Rows of a file, all of them in order or piece by piece: a process reads its own pieces, and is told where they stand.

A piece is a stretch of rows that lie together and fit memory many times: the lines that begin within 2 MiB, or 4,096 rows. Pieces
do not depend on how many processes share them.
"""

from __future__ import annotations

import itertools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.storage.reading import existing_file, line_pieces

Row = tuple[str, Any]
"""(origin "file:line", raw row); a raw row may be a BadRow or a LeftOut, which are counted."""
Wanted = Callable[[int], bool]
"""Whether the piece of a number is read."""

PIECE_BYTES = 1 << 21
PIECE_ROWS = 4096
EMPTY = "empty line"


class Pieces(Iterable[Row], ABC):
    """Rows in order; those of one piece are in memory at a time."""

    key: str
    """Two that have the same key hold the same rows."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many pieces there are; None where that is known only behind the last."""

    @abstractmethod
    def pieces(self, wanted: Wanted) -> Iterator[tuple[int, Iterator[Row]]]:
        """(number, rows) of the pieces that are wanted, in order."""

    def __iter__(self) -> Iterator[Row]:
        for _, rows in self.pieces(lambda number: True):
            yield from rows

    def mapped(self, each: Callable[[str, Any], Any]) -> Mapped:
        """The same rows, each as `each` makes it of (origin, raw row)."""
        return Mapped(self, each)


class Mapped(Iterable[Row]):
    """Rows of pieces that are shared, as one reader wants them."""

    def __init__(self, base: Pieces, each: Callable[[str, Any], Any]) -> None:
        self.base, self.each = base, each

    def __iter__(self) -> Iterator[Row]:
        return ((origin, self.each(origin, raw)) for origin, raw in self.base)

    def mapped(self, each: Callable[[str, Any], Any]) -> Mapped:
        """These rows, each as `each` makes it."""
        return Mapped(self.base, lambda origin, raw: each(origin, self.each(origin, raw)))


class Stream(Pieces):
    """Rows that can only be read one after another: every process reads all of them and keeps its own."""

    def __init__(self, make: Callable[[], Iterable[Row]], key: str) -> None:
        """`make` begins them anew."""
        self.key, self._make = key, make
        self._count: int | None = None

    @property
    def count(self) -> int | None:
        return self._count

    def pieces(self, wanted: Wanted) -> Iterator[tuple[int, Iterator[Row]]]:
        rows, number = iter(self._make()), 0
        while piece := list(itertools.islice(rows, PIECE_ROWS)):
            if wanted(number):
                yield number, iter(piece)
            number += 1
        self._count = number


class Lines(Pieces):
    """Lines of a text file."""

    def __init__(self, path: Path, parse: Callable[[str], Any] = str) -> None:
        self.path, self.parse, self.key = path, parse, f"lines {path}"

    @property
    def count(self) -> int:
        return -(-os.path.getsize(existing_file(self.path, "data file")) // PIECE_BYTES)

    def pieces(self, wanted: Wanted) -> Iterator[tuple[int, Iterator[Row]]]:
        for number, lines in line_pieces(self.path, PIECE_BYTES, wanted):
            yield number, ((f"{self.path}:{line}", self._row(text)) for line, text in lines)

    def _row(self, text: str) -> Any:
        if "\0" in text:
            return BadRow("holds NUL bytes, as a power failure leaves them")
        return self.parse(text) if text.strip() else LeftOut(EMPTY)


class Parquet(Pieces):
    """Rows of a parquet file, as the Hugging Face hub converts data sets; row groups without a wanted row are not read."""

    def __init__(self, path: Path) -> None:
        self.path, self.key = path, f"parquet {path}"

    @property
    def count(self) -> int:
        return -(-self._opened().metadata.num_rows // PIECE_ROWS)

    def _opened(self) -> Any:
        import pyarrow.parquet  # imports slowly

        try:
            return pyarrow.parquet.ParquetFile(existing_file(self.path, "data file"))
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"cannot read {self.path} as parquet: {str(error).splitlines()[0]}")

    def pieces(self, wanted: Wanted) -> Iterator[tuple[int, Iterator[Row]]]:
        for number, rows in itertools.groupby(self._rows(wanted), key=lambda row: row[0] // PIECE_ROWS):
            yield number, ((f"{self.path}:row {index}", row) for index, row in rows)

    def _rows(self, wanted: Wanted) -> Iterator[tuple[int, dict[str, Any]]]:
        for begin, batch in self._batches(wanted):
            for first in range(begin - begin % PIECE_ROWS, begin + len(batch), PIECE_ROWS):
                if wanted(first // PIECE_ROWS):
                    start = max(first, begin)
                    chosen = batch.slice(start - begin, first + PIECE_ROWS - start)
                    yield from enumerate(self._checked(chosen.to_pylist), start)

    def _batches(self, wanted: Wanted) -> Iterator[tuple[int, Any]]:
        """(number of its first row, batch) of the row groups that hold a wanted piece."""
        file, begin = self._opened(), 0
        for group in range(file.num_row_groups):
            end = begin + file.metadata.row_group(group).num_rows
            if any(map(wanted, range(begin // PIECE_ROWS, -(-end // PIECE_ROWS)))):
                batches = self._checked(lambda: file.iter_batches(PIECE_ROWS, row_groups=[group]))  # noqa: B023
                while (batch := self._checked(lambda: next(batches, None))) is not None:  # noqa: B023
                    yield begin, batch
                    begin += len(batch)
            begin = end

    def _checked(self, read: Callable[[], Any]) -> Any:
        import pyarrow

        try:
            return read()
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError, ValueError) as error:
            raise self._unreadable(error) from error


class Shards(Pieces):
    """Rows of several files, one after another."""

    def __init__(self, files: Sequence[Pieces]) -> None:
        self.files, self.key = files, " + ".join(file.key for file in files)

    @property
    def count(self) -> int | None:
        counts = [file.count for file in self.files]
        return None if None in counts else sum(count or 0 for count in counts)

    def pieces(self, wanted: Wanted) -> Iterator[tuple[int, Iterator[Row]]]:
        before = 0
        for file in self.files:
            for number, rows in file.pieces(lambda number: wanted(before + number)):  # noqa: B023
                yield before + number, rows
            before += file.count or 0
