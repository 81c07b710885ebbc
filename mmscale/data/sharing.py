"""A data set read by several processes, each its own pieces; filters run here, once, where tokens are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from mmscale.config.data import DataConfig
from mmscale.data import filters
from mmscale.data.loading import DataReading, Piece, filtered, load_records, turned_round
from mmscale.data.records import Record

BLOCK = 4096
"""Records of a piece where a data set is read as a whole."""

Wanted = Callable[[int, int], bool]
"""Whether the piece of (base, number) is read."""
Share = Callable[[int, int | None], Callable[[int], bool]]
"""(base, pieces of it where that is known) -> the numbers that are this process's own."""


def share_of(rank: int, size: int, before: int = 0) -> Share:
    """Pieces that lie together where it is known how many there are, else every n-th; the next base begins at the next process,
    `before` having been given out."""

    def mine(base: int, count: int | None) -> Callable[[int], bool]:
        return lambda number: ((number if count is None else number * size // count) + base + before) % size == rank

    return mine


def _kept(piece: Piece, config: DataConfig, flags: dict[str, set[int]]) -> Piece:
    """What filters leave of a piece, told to its account; `flags` number its records language after language."""
    records = filtered(together(piece), config, piece.account, flags)
    by_language: dict[str, list[Record]] = {code: [] for code in piece.records}
    for record in records:
        by_language[record.language].append(turned_round(record, config) if config.reversed else record)
    return replace(piece, records=by_language)


def together(piece: Piece) -> list[Record]:
    """The records of a piece, language after language."""
    return [record for of_language in piece.records.values() for record in of_language]


class InPieces:
    """A data set none of whose filters looks at more than one record."""

    def __init__(self, config: DataConfig, run_languages: Sequence[str]) -> None:
        self.config, self.reading = config, DataReading(config, run_languages)
        self.languages, self.counts = self.reading.languages, self.reading.counts

    def pieces(self, wanted: Wanted) -> Iterator[Piece]:
        for piece in self.reading.pieces(wanted):
            yield _kept(piece, self.config, self._flags(piece))

    def _flags(self, piece: Piece) -> dict[str, set[int]]:
        return filters.flag(together(piece), self.config.source, self.config.drop)


class Compared(InPieces):
    """A data set whose filters compare its records: processes tell each other short keys of them first."""

    def __init__(self, config: DataConfig, run_languages: Sequence[str]) -> None:
        super().__init__(config, run_languages)
        self._flagged: dict[str, dict[tuple[int, int], np.ndarray]] = {}

    def keys(self, wanted: Wanted) -> Iterator[tuple[int, int, np.ndarray]]:
        """(base, number, `filters.comparison_keys`) of the pieces that are wanted."""
        for piece in self.reading.pieces(wanted):
            yield piece.base, piece.number, filters.comparison_keys(together(piece))

    def compare(self, keys: dict[tuple[int, int], np.ndarray]) -> None:
        """Take in the keys of all pieces, (base, number) -> keys in order; `pieces` can be asked for after that."""
        ends = np.cumsum([len(of_piece) for of_piece in keys.values()])[:-1]
        joined = np.concatenate(list(keys.values()))
        for name in self.config.drop:
            chosen = filters.get(name)
            if isinstance(chosen, filters.Across):
                self._flagged[name] = dict(zip(keys, np.split(chosen.among(joined), ends), strict=True))

    def _flags(self, piece: Piece) -> dict[str, set[int]]:
        records, flags = together(piece), dict[str, set[int]]()
        for name in dict.fromkeys(self.config.drop):
            if name in self._flagged:
                flags[name] = set(np.flatnonzero(self._flagged[name][piece.base, piece.number]).tolist())
            else:
                flags |= filters.flag(records, self.config.source, (name,))
        return {name: numbers for name, numbers in flags.items() if numbers}


class Whole:
    """A data set with a filter that wants all records at once, of which every process then holds them."""

    def __init__(self, config: DataConfig, run_languages: Sequence[str]) -> None:
        self.config, self.run_languages = config, run_languages
        self._reading = DataReading(config, run_languages)
        self.languages = self._reading.languages
        self.counts: list[int | None] = [None]

    def pieces(self, wanted: Wanted) -> Iterator[Piece]:
        records, account = load_records(self.config, self.run_languages, pointing=())
        blocks = range(0, len(records), BLOCK)
        self.counts[0] = len(blocks)
        of = "target_language" if self.config.reversed else "language"
        for number, begin in enumerate(blocks):
            if wanted(0, number):
                by_language: dict[str, list[Record]] = {}
                for record in records[begin : begin + BLOCK]:
                    by_language.setdefault(getattr(record, of), []).append(record)
                yield Piece(0, number, by_language, self._reading.account() if number else account)


def shared_set(config: DataConfig, run_languages: Sequence[str]) -> InPieces | Whole:
    """How processes share a data set, by what its filters look at."""
    chosen = [filters.get(name) for name in config.drop]
    if all(isinstance(one, filters.Alone) for one in chosen):
        return InPieces(config, run_languages)
    if all(isinstance(one, (filters.Alone, filters.Across)) for one in chosen):
        return Compared(config, run_languages)
    return Whole(config, run_languages)
