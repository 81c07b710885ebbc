"""From a DataConfig to records, with a full account of what was read, bad, flagged and dropped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from mmscale.config.data import DataConfig
from mmscale.data import filters
from mmscale.data.records import Record
from mmscale.data.sources import Request, Source, source
from mmscale.errors import BadRow, UserError, unknown_name


@dataclass
class DataAccount:
    """What became of the rows of one data set."""

    source: str
    path: str
    read: dict[str, int] = field(default_factory=dict)
    """Good records a language, before filters drop any."""
    bad: list[str] = field(default_factory=list)
    """"file:line: reason" of every unreadable row."""
    flagged: dict[str, list[str]] = field(default_factory=dict)
    """Filter name -> origins of the rows it flags."""
    dropped: int = 0

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


def load_records(config: DataConfig, run_languages: Sequence[str]) -> tuple[list[Record], DataAccount]:
    """All records of a data set in file order, language after language, and the account of it.

    Raises UserError when more than `max_bad_share` of the rows are unreadable or nothing is left.
    """
    chosen = source(config.source)
    for option in config.options:
        if option not in chosen.options:
            raise unknown_name(f"option of source {config.source}", option, chosen.options or {"(none)"})
    account = DataAccount(config.source, config.path)
    records: list[Record] = []
    for code in wanted_languages(config, run_languages):
        found = _read(chosen, config, code, account)
        account.read[code] = len(found)
        records += found
    _refuse_too_many_bad(config, account)
    kept = records if chosen.generated and not config.drop else _filtered(records, config, account)
    if not kept:
        raise UserError(
            f"data set {config.source} at '{config.path}' has no rows left: check path, split, languages and drop"
        )
    return kept, account


def _read(chosen: Source, config: DataConfig, code: str, account: DataAccount) -> list[Record]:
    request = Request(config.path, code, config.split, config.limit_per_language, dict(config.options))
    found: list[Record] = []
    rows = chosen.rows(request)
    for origin, raw in itertools.islice(rows, config.limit_per_language):
        try:
            if isinstance(raw, BadRow):
                raise raw
            found.append(chosen.parse(raw, request, origin))
        except BadRow as problem:
            account.bad.append(f"{origin}: {problem}")
    return found


def _refuse_too_many_bad(config: DataConfig, account: DataAccount) -> None:
    total = sum(account.read.values()) + len(account.bad)
    if account.bad and len(account.bad) > config.max_bad_share * total:
        raise UserError(
            f"{account.bad[0]}; {len(account.bad)} of {total} rows of {config.source} can't be read, more than "
            f"max_bad_share={config.max_bad_share}: mend the file or raise it"
        )


def _filtered(records: list[Record], config: DataConfig, account: DataAccount) -> list[Record]:
    for name in config.drop:
        filters.get(name)
    out: set[int] = set()
    for name, flagged in filters.flag(records, config.source).items():
        account.flagged[name] = [records[i].origin for i in sorted(flagged)]
        if name in config.drop:
            out |= flagged
    account.dropped = len(out)
    return [record for i, record in enumerate(records) if i not in out]
