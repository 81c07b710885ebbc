"""From a DataConfig to records, with a full account of what was read, bad, flagged and dropped."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmscale.config.data import DataConfig
from mmscale.data import filters
from mmscale.data.records import ParallelSentence, Record
from mmscale.data.sources import SourceRequest, source
from mmscale.data.sources.pieces import Mapped, Pieces, Row, Stream
from mmscale.errors import BadRow, LeftOut, UserError, unknown_name


@dataclass
class RowCount:
    """What became of every row of one language's file: `rows` is the sum of the others."""

    rows: int = 0
    read: int = 0
    unreadable: list[str] = field(default_factory=list)
    """"file:line: reason" of every unreadable row."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that were not asked for."""

    @property
    def bad(self) -> int:
        return len(self.unreadable)

    @property
    def taken(self) -> int:
        """Rows that count against a limit."""
        return self.read + self.bad

    @contextlib.contextmanager
    def one_more(self, origin: str) -> Iterator[None]:
        """Around the reading of one row: what it ends in is counted."""
        self.rows += 1
        try:
            yield
        except BadRow as problem:
            self.unreadable.append(f"{origin}: {problem}")
        except LeftOut as reason:
            self.left_out[str(reason)] = self.left_out.get(str(reason), 0) + 1

    def add(self, more: RowCount) -> None:
        """Count the rows of another stretch of the same file."""
        self.rows, self.read = self.rows + more.rows, self.read + more.read
        self.unreadable += more.unreadable
        for reason, number in more.left_out.items():
            self.left_out[reason] = self.left_out.get(reason, 0) + number

    def to_json(self) -> dict[str, object]:
        return {"rows": self.rows, "read": self.read, "bad": self.bad, "left_out": self.left_out}


@dataclass(kw_only=True)
class DataAccount:
    """What became of the rows of one data set."""

    source: str
    path: str
    counts: dict[str, RowCount] = field(default_factory=dict)
    """A language; of a file that holds several, each is told about every row."""
    flags: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """Filter name -> language -> origins of the rows it flags."""
    dropped: int = 0
    expected: int | None = None
    """Rows that a language was published with, where that is known."""

    @property
    def bad(self) -> list[str]:
        """ "file:line: reason" of every unreadable row, once."""
        return list(dict.fromkeys(told for count in self.counts.values() for told in count.unreadable))

    @property
    def flagged(self) -> dict[str, list[str]]:
        """Filter name -> origins of the rows it flags, language after language."""
        return {
            name: [origin for code in self.counts for origin in origins.get(code, ())]
            for name, origins in self.flags.items()
        }

    @property
    def read(self) -> dict[str, int]:
        """Good records per language, before filters drop any."""
        return {code: count.read for code, count in self.counts.items()}

    @property
    def left_out(self) -> dict[str, int]:
        """Reason -> rows, over all languages."""
        total: Counter[str] = Counter()
        for count in self.counts.values():
            total.update(count.left_out)
        return dict(total)

    @property
    def kept(self) -> int:
        return sum(self.read.values()) - self.dropped

    def add(self, more: DataAccount) -> None:
        """Count the rows of another stretch of the same data set."""
        for code, count in more.counts.items():
            self.counts.setdefault(code, RowCount()).add(count)
        for name, origins in more.flags.items():
            for code, of_language in origins.items():
                self.flags.setdefault(name, {}).setdefault(code, []).extend(of_language)
        self.dropped += more.dropped

    def refuse_unreadable(self, config: DataConfig) -> None:
        """UserError when more than `max_bad_share` of the rows are unreadable, or a language has none."""
        _refuse_too_many_bad(config, self)
        _refuse_empty(config, self)

    def require_usable(self, config: DataConfig) -> None:
        """The same where filters left none as well."""
        self.refuse_unreadable(config)
        if not self.kept:
            raise UserError(
                f"data set {config.source} at '{config.path}' has no rows left after drop: {', '.join(config.drop)}"
            )

    def summary(self) -> dict[str, object]:
        """For reports: counts, and the first few places of each kind."""
        return {
            "source": self.source,
            "path": self.path,
            "read": self.read,
            "kept": self.kept,
            "dropped": self.dropped,
            "bad": {"count": len(self.bad), "first": self.bad[:5]},
            "left_out": self.left_out,
            **({} if self.expected is None else {"expected": self.expected}),
            "languages": {code: count.to_json() for code, count in self.counts.items()},
            "flagged": {name: {"count": len(rows), "first": rows[:5]} for name, rows in self.flagged.items()},
        }


def wanted_languages(config: DataConfig, run_languages: Sequence[str]) -> tuple[str, ...]:
    """The languages asked for, or those of the run that the source exists in."""
    if config.languages:
        return config.languages
    available = source(config.source).languages
    chosen = tuple(code for code in run_languages if not available or code in available)
    if not chosen:
        raise UserError(f"source {config.source} has none of the run's languages: set data.languages")
    return chosen


def load_records(
    config: DataConfig, run_languages: Sequence[str], only: str | None = None, pointing: Sequence[str] | None = None
) -> tuple[list[Record], DataAccount]:
    """All records of a data set in file order, language after language (or `only` one of them), and the account of it.

    The filters of `pointing` are run besides those that drop rows; None is every built-in one, but for generated rows. Raises
    UserError when more than `max_bad_share` of the rows are unreadable or a language has none.
    """
    reading = DataReading(config, run_languages, only)
    account = reading.account()
    records: dict[str, list[Record]] = {code: [] for code in reading.languages}
    for piece in reading.pieces(lambda base, number: True):
        account.add(piece.account)
        for code, of_language in piece.records.items():
            records[code] += of_language
    account.refuse_unreadable(config)
    if pointing is None:
        pointing = () if reading.source.generated and not config.drop else filters.built_in()
    together = [record for of_language in records.values() for record in of_language]
    kept = filtered(together, config, account, filters.flag(together, config.source, (*pointing, *config.drop)))
    account.require_usable(config)
    return [turned_round(record, config) for record in kept] if config.reversed else kept, account


def stream_records(config: DataConfig, run_languages: Sequence[str], account: DataAccount) -> Iterator[Record]:
    """The records of `load_records` one after another, none of them held, and no filter run; told to an account of no rows.

    UserError, at the end, where the data is unusable.
    """
    for code in wanted_languages(config, run_languages):
        for piece in DataReading(config, run_languages, only=code).pieces(lambda base, number: True):
            account.add(piece.account)
            yield from piece.records[code]
    account.require_usable(config)


def filtered(
    records: Sequence[Record], config: DataConfig, account: DataAccount, flags: Mapping[str, set[int]]
) -> list[Record]:
    """The records that `drop` leaves, and what all filters found told to the account."""
    out: set[int] = set()
    for name, flagged in flags.items():
        of_filter = account.flags.setdefault(name, {})
        for i in sorted(flagged):
            of_filter.setdefault(records[i].language, []).append(records[i].origin)
        if name in config.drop:
            out |= flagged
    account.dropped += len(out)
    return [record for i, record in enumerate(records) if i not in out]


def turned_round(record: Record, config: DataConfig) -> ParallelSentence:
    if not isinstance(record, ParallelSentence):
        raise UserError(
            f"data set {config.source} at '{config.path}' has no sentence pairs to turn round: take reversed out"
        )
    return replace(
        record,
        source=record.target,
        target=record.source,
        source_language=record.target_language,
        target_language=record.source_language,
    )


@dataclass(frozen=True)
class Piece:
    """The records of a stretch of rows, and what became of these rows."""

    base: int
    """Which of the data set's files, or what stands for one."""
    number: int
    records: dict[str, list[Record]]
    """Language -> records in file order."""
    account: DataAccount


@dataclass(frozen=True)
class _Base:
    """Rows that one or more languages are read from."""

    rows: Pieces
    readers: dict[str, tuple[SourceRequest, Callable[[str, Any], Any]]]
    """Language -> what is asked for, and what a raw row is for it."""


class DataReading:
    """A data set that is read piece by piece; a file that several languages share is gone over once for all of them."""

    def __init__(self, config: DataConfig, run_languages: Sequence[str], only: str | None = None) -> None:
        """UserError for an option that the source does not have, or a file that is not there."""
        self.config, self.source = config, source(config.source)
        for option in config.options:
            if option not in self.source.options:
                raise unknown_name(f"option of source {config.source}", option, self.source.options or {"(none)"})
        asked = wanted_languages(config, run_languages)
        self.languages = asked if only is None else (only,)
        self.bases = self._bases(alone=len(asked) == 1)
        self.counts: list[int | None] = [self._count(base) for base in self.bases]
        """Pieces of each base; None where that is known only when it was read."""

    def account(self) -> DataAccount:
        """An account of no rows yet."""
        return DataAccount(
            source=self.config.source, path=self.config.path, counts={code: RowCount() for code in self.languages}
        )

    def _bases(self, alone: bool) -> list[_Base]:
        bases: dict[str, _Base] = {}
        for code in self.languages:
            request = SourceRequest(
                path=self.config.path,
                language=code,
                split=self.config.split,
                limit=self.config.limit_per_language,
                options=dict(self.config.options),
                alone=alone,
            )
            rows, each = self._rows(request)
            bases.setdefault(rows.key, _Base(rows, {})).readers[code] = (request, each)
        return list(bases.values())

    def _rows(self, request: SourceRequest) -> tuple[Pieces, Callable[[str, Any], Any]]:
        """Rows that may be another language's too, and what each is for this one."""
        rows = self.source.rows(request)
        if isinstance(rows, Mapped):
            return rows.base, rows.each
        if isinstance(rows, Pieces):
            return rows, _as_it_is
        return Stream(lambda: self.source.rows(request), f"rows of {request.language}"), _as_it_is

    @property
    def _limit(self) -> int | None:
        """Rows of a language that are read; a generated source makes no more than it was asked for."""
        return None if self.source.generated else self.config.limit_per_language

    def _count(self, base: _Base) -> int | None:
        return base.rows.count if self._limit is None else None

    def pieces(self, wanted: Callable[[int, int], bool]) -> Iterator[Piece]:
        """Those whose (base, number) is wanted. Where rows are limited all before the last one are read, whoever wants them."""
        for place, base in enumerate(self.bases):
            if self._limit is None:
                for number, rows in base.rows.pieces(functools.partial(wanted, place)):
                    yield self._piece(place, number, rows, {})
                self.counts[place] = base.rows.count
            else:
                yield from self._limited(place, base, self._limit, wanted)

    def _limited(self, place: int, base: _Base, limit: int, wanted: Callable[[int, int], bool]) -> Iterator[Piece]:
        room = dict.fromkeys(base.readers, limit)
        self.counts[place] = 0
        for number, rows in base.rows.pieces(lambda number: True):
            piece = self._piece(place, number, rows, room)
            self.counts[place] = number + 1
            if wanted(place, number):
                yield piece
            for code in room:
                room[code] -= piece.account.counts[code].taken
            if not any(room.values()):
                return

    def _piece(self, place: int, number: int, rows: Iterator[Row], room: Mapping[str, int]) -> Piece:
        """`room` is how many more rows of each language are read, where that is limited."""
        account, readers = self.account(), self.bases[place].readers
        records: dict[str, list[Record]] = {code: [] for code in readers}
        for origin, raw in rows:
            for code, (request, each) in readers.items():
                count = account.counts[code]
                if code not in room or count.taken < room[code]:
                    with count.one_more(origin):
                        records[code].append(self._record(each(origin, raw), request, origin))
                        count.read += 1
        return Piece(place, number, records, account)

    def _record(self, raw: Any, request: SourceRequest, origin: str) -> Record:
        if isinstance(raw, (BadRow, LeftOut)):
            raise raw
        record = self.source.parse(raw, request, origin)
        if record.language != request.language:
            raise UserError(
                f"source {self.config.source} has no language '{request.language}': its rows are {record.language}"
            )
        return record


def _as_it_is(origin: str, raw: Any) -> Any:
    return raw


def _refuse_too_many_bad(config: DataConfig, account: DataAccount) -> None:
    total = sum(account.read.values()) + len(account.bad)
    if account.bad and len(account.bad) > config.max_bad_share * total:
        raise UserError(
            f"{account.bad[0]}; {len(account.bad)} of {total} rows of {config.source} can't be read, more than "
            f"max_bad_share={config.max_bad_share}: mend the file or raise it"
        )


def _refuse_empty(config: DataConfig, account: DataAccount) -> None:
    for code, count in account.counts.items():
        if not count.read:
            others = ", ".join(f"{reason} ({number})" for reason, number in sorted(count.left_out.items())[:5])
            why = f", {count.bad} unreadable" if count.bad else ""
            why += f", left out: {others}" if others else ""
            raise UserError(
                f"data set {config.source} at '{config.path}' has no rows left for language '{code}' of {count.rows}"
                f"{why}: check path, split, languages and options"
            )
