"""From a DataConfig to records, with a full account of what was read, bad, flagged and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mmscale.config.data import DataConfig
from mmscale.data import filters
from mmscale.data.records import ParallelSentence, Record
from mmscale.data.sources import Source, SourceRequest, source
from mmscale.errors import BadRow, LeftOut, UserError, unknown_name


@dataclass
class RowCount:
    """What became of every row of one language's file: `rows` is the sum of the others."""

    rows: int = 0
    read: int = 0
    bad: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    """Reason -> rows that were not asked for."""

    def to_json(self) -> dict[str, object]:
        return {"rows": self.rows, "read": self.read, "bad": self.bad, "left_out": self.left_out}


@dataclass(kw_only=True)
class DataAccount:
    """What became of the rows of one data set."""

    source: str
    path: str
    counts: dict[str, RowCount] = field(default_factory=dict)
    """A language; of a file that holds several, each is told about every row."""
    bad: list[str] = field(default_factory=list)
    """"file:line: reason" of every unreadable row, once."""
    flagged: dict[str, list[str]] = field(default_factory=dict)
    """Filter name -> origins of the rows it flags."""
    dropped: int = 0
    expected: int | None = None
    """Rows that a language was published with, where that is known."""

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
    config: DataConfig, run_languages: Sequence[str], only: str | None = None
) -> tuple[list[Record], DataAccount]:
    """All records of a data set in file order, language after language (or `only` one of them), and the account of it.

    Raises UserError when more than `max_bad_share` of the rows are unreadable or a language has none.
    """
    chosen = source(config.source)
    for option in config.options:
        if option not in chosen.options:
            raise unknown_name(f"option of source {config.source}", option, chosen.options or {"(none)"})
    account = DataAccount(source=config.source, path=config.path)
    records: list[Record] = []
    languages = wanted_languages(config, run_languages)
    for code in languages if only is None else (only,):
        records += _read(chosen, config, code, len(languages) == 1, account)
    _refuse_too_many_bad(config, account)
    _refuse_empty(config, account)
    kept = records if chosen.generated and not config.drop else _filtered(records, config, account)
    if not kept:
        raise UserError(
            f"data set {config.source} at '{config.path}' has no rows left after drop: {', '.join(config.drop)}"
        )
    return [_turned_round(record, config) for record in kept] if config.reversed else kept, account


def _turned_round(record: Record, config: DataConfig) -> ParallelSentence:
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


def _read(chosen: Source, config: DataConfig, code: str, alone: bool, account: DataAccount) -> list[Record]:
    """The records of a language; every row that its source sees is counted as one of three kinds."""
    request = SourceRequest(
        path=config.path,
        language=code,
        split=config.split,
        limit=config.limit_per_language,
        options=dict(config.options),
        alone=alone,
    )
    count = account.counts.setdefault(code, RowCount())
    known_bad, records = set(account.bad), []
    for origin, raw in chosen.rows(request):
        if config.limit_per_language is not None and count.read + count.bad >= config.limit_per_language:
            break
        count.rows += 1
        try:
            if isinstance(raw, (BadRow, LeftOut)):
                raise raw
            record = chosen.parse(raw, request, origin)
            if record.language != code:
                raise UserError(f"source {config.source} has no language '{code}': its rows are {record.language}")
            records.append(record)
            count.read += 1
        except BadRow as problem:
            count.bad += 1
            told = f"{origin}: {problem}"
            if told not in known_bad:
                account.bad.append(told)
        except LeftOut as reason:
            count.left_out[str(reason)] = count.left_out.get(str(reason), 0) + 1
    return records


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


def _filtered(records: list[Record], config: DataConfig, account: DataAccount) -> list[Record]:
    out: set[int] = set()
    for name, flagged in filters.flag(records, config.source, config.drop).items():
        account.flagged[name] = [records[i].origin for i in sorted(flagged)]
        if name in config.drop:
            out |= flagged
    account.dropped = len(out)
    return [record for i, record in enumerate(records) if i not in out]
