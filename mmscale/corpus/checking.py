"""Checking a corpus, in three steps: what is seen of each shard, that of all brought together, each row judged.

seen/SOURCE/LANGUAGE/NNNNN.npz, .json        what was seen of a shard
checked/SOURCE/LANGUAGE/NNNNN.jsonl.gz       rows that go on; `notes.flags` says what each was flagged for
dropped/SOURCE/LANGUAGE/NNNNN.jsonl.gz       rows that do not, with the same notes
checked/SOURCE/LANGUAGE/NNNNN.json           what became of the rows of the shard: `rows` is `kept` and `dropped` together
checked/checks.json                          the same of all shards, per language and check
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from mmscale import __version__, registry
from mmscale.config.corpus import CorpusConfig
from mmscale.corpus.checks.base import Check, CheckSetting, Finding, Scorer
from mmscale.corpus.checks.seen import Seen, notes_of, together
from mmscale.corpus.layout import ROWS, shards
from mmscale.corpus.rows import CorpusRow, read_rows, row_of, to_document, write_rows
from mmscale.errors import UserError
from mmscale.storage.files import digest, sha256, write_json
from mmscale.storage.reading import read_json_object

SEEN, CHECKED, DROPPED, SUMMARY = "seen", "checked", "dropped", "checks.json"
FLAGS = "flags"
"""Key of a row's notes: check -> [score, threshold, reason]."""
_BATCH = 64
"""Rows that are judged at once."""
_REMEDY = "remove it, the next mmscale corpus check makes it again"


def chosen(config: CorpusConfig) -> dict[str, Check]:
    """The checks that a configuration runs, by name; UserError where one lacks what it asks for."""
    setting = config.check
    named = setting.only or tuple(registry.KINDS["checks"].built_in)
    checks: dict[str, Check] = {name: registry.get("checks", name) for name in (*named, *setting.drop)}
    for name, check in list(checks.items()):
        if check.asks and not getattr(setting, check.asks):
            if name in setting.only or name in setting.drop:
                raise UserError(f"check '{name}' needs check.{check.asks}: set it, or take the check out")
            del checks[name]
    return checks


@dataclass(kw_only=True)
class CheckCount:
    """What a check found in the rows of a language."""

    judged: int = 0
    """Rows that it has something to say about."""
    flagged: int = 0
    dropped: int = 0
    """Rows that left the corpus, counted at the first check that they left it for."""


@dataclass(kw_only=True)
class CheckAccount:
    """What became of rows."""

    rows: int = 0
    kept: int = 0
    dropped: int = 0
    checks: dict[str, CheckCount] = field(default_factory=dict)

    def add(self, other: CheckAccount) -> None:
        """Count the rows of another account too."""
        self.rows, self.kept, self.dropped = (
            self.rows + other.rows,
            self.kept + other.kept,
            self.dropped + other.dropped,
        )
        for name, count in other.checks.items():
            mine = self.checks.setdefault(name, CheckCount())
            mine.judged, mine.flagged = mine.judged + count.judged, mine.flagged + count.flagged
            mine.dropped += count.dropped

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "checks": {name: vars(count) for name, count in self.checks.items()}}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> CheckAccount:
        counts = {name: CheckCount(**count) for name, count in value["checks"].items()}
        return cls(rows=value["rows"], kept=value["kept"], dropped=value["dropped"], checks=counts)


class Judge:
    """Checks that are ready to judge rows."""

    def __init__(self, config: CorpusConfig, seen: Seen | None) -> None:
        self.checks, self._drop = chosen(config), config.check.drop
        self._thresholds = config.check.thresholds
        languages = list(dict.fromkeys([*config.languages, *(source.language for source in config.sources)]))
        setting = CheckSetting(config=config.check, languages=languages, seen=seen)
        self._scorers: dict[str, Scorer] = {name: check.ready(setting) for name, check in self.checks.items()}

    def judged(self, rows: Sequence[CorpusRow], account: CheckAccount) -> Iterator[tuple[CorpusRow, bool]]:
        """(row with its flags, whether it stays) of each row, counted."""
        findings: list[dict[str, Finding]] = [{} for _ in rows]
        for name, check in self.checks.items():
            count = account.checks.setdefault(name, CheckCount())
            for place, score in enumerate(self._scorers[name](rows)):
                finding = check.finding(score, self._thresholds.get(name))
                count.judged += score is not None
                count.flagged += finding is not None
                if finding is not None:
                    findings[place][name] = finding
        for row, flags in zip(rows, findings, strict=True):
            yield self._counted(row, flags, account)

    def _counted(self, row: CorpusRow, flags: dict[str, Finding], account: CheckAccount) -> tuple[CorpusRow, bool]:
        out = next((name for name in flags if name in self._drop), None)
        account.rows += 1
        account.kept += out is None
        if out is not None:
            account.dropped += 1
            account.checks[out].dropped += 1
        told = {name: list(finding) for name, finding in flags.items()}
        return replace(row, notes={**row.notes, FLAGS: told}), out is None


class CheckRows(PipelineStep):
    """A datatrove block of checks that need a row alone: it flags each Document's metadata, and drops what `check.drop` names."""

    name = "checks"
    type = "filter"

    def __init__(self, config: CorpusConfig) -> None:
        super().__init__()
        self.config = config
        for name, check in chosen(config).items():
            if check.of_all_rows:
                raise UserError(f"check '{name}' compares all rows of a corpus: name the others in check.only")

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        judge, account = Judge(self.config, None), CheckAccount()
        documents = iter(data or ())
        while batch := list(itertools.islice(documents, _BATCH)):
            for row, stays in judge.judged([row_of(document) for document in batch], account):
                self.stat_update("kept" if stays else "dropped")
                if stays:
                    yield to_document(row)


@dataclass(frozen=True)
class RowShard:
    """A shard of rows, and where what is made of it lies."""

    corpus: Path
    file: Path

    @property
    def name(self) -> str:
        return self.file.relative_to(self.corpus / ROWS).as_posix().removesuffix(".jsonl.gz")

    def path(self, folder: str, suffix: str) -> Path:
        return self.corpus / folder / f"{self.name}{suffix}"


def shards_of(corpus: Path) -> list[RowShard]:
    """Every shard of rows, in order; UserError where there is none."""
    every = [RowShard(corpus, file) for _, _, file in shards(corpus)]
    if not every:
        raise UserError(f"{corpus} has no rows to check: mmscale corpus read comes first, translate after it")
    return every


def _known(path: Path) -> dict[str, Any]:
    """A note of ours, empty where there is none."""
    return read_json_object(path, _REMEDY) if path.is_file() else {}


class LookAtShards(PipelineStep):
    """The first pass: what is to be seen of each shard. Each task looks at every so many shards; what is there already stays."""

    name = "what is seen of shards"
    type = "checks"

    def __init__(self, config: CorpusConfig, near: bool) -> None:
        super().__init__()
        self.corpus, self.near = config.folder, near

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for shard in shards_of(self.corpus)[rank::world_size]:
            note, work = shard.path(SEEN, ".json"), digest([__version__, self.near, sha256(shard.file)])
            if _known(note).get("work") != work:
                seen = notes_of(read_rows(shard.file), self.near)
                note.parent.mkdir(parents=True, exist_ok=True)
                note.unlink(missing_ok=True)
                seen.save(shard.path(SEEN, ".npz"))
                write_json(note, {"work": work, "rows": len(seen.keys), "counts": seen.counts})
        return data


def bring_together(config: CorpusConfig, near: bool) -> Seen:
    """The second: what was seen of all shards."""
    every = {shard.name: shard for shard in shards_of(config.folder)}
    notes = {name: read_json_object(shard.path(SEEN, ".json"), _REMEDY) for name, shard in every.items()}

    def arrays(name: str) -> dict[str, np.ndarray]:
        path = every[name].path(SEEN, ".npz")
        try:
            with np.load(path, allow_pickle=False) as held:
                return {key: held[key] for key in held.files}
        except (OSError, ValueError, EOFError) as error:
            raise UserError(
                f"{path} is damaged: remove it and its .json, the next mmscale corpus check makes them again"
            ) from error

    counted = (
        {pair: {int(k): v for k, v in bins.items()} for pair, bins in note["counts"].items()} for note in notes.values()
    )
    return together([(name, note["rows"]) for name, note in notes.items()], arrays, counted, near)


class JudgeShards(PipelineStep):
    """The third: every row judged. Each task judges every so many shards; what is judged already stays."""

    name = "checks of shards"
    type = "checks"

    def __init__(self, config: CorpusConfig, seen: Seen | None, work: str) -> None:
        super().__init__()
        self.config, self.seen, self.work = config, seen, work

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        open_ones = [shard for shard in shards_of(self.config.folder)[rank::world_size] if not self.is_done(shard)]
        judge = Judge(self.config, self.seen) if open_ones else None
        for shard in open_ones:
            assert judge is not None
            _judge_shard(shard, judge, self.work)
        return data

    def is_done(self, shard: RowShard) -> bool:
        """Whether the shard was judged as it is now."""
        note = _known(shard.path(CHECKED, ".json"))
        made = all(shard.path(folder, ".jsonl.gz").is_file() for folder in (CHECKED, DROPPED))
        return made and note.get("work") == self.work and note.get("file") == sha256(shard.file)


def _judge_shard(shard: RowShard, judge: Judge, work: str) -> None:
    account, dropped = CheckAccount(), []
    note = shard.path(CHECKED, ".json")
    note.unlink(missing_ok=True)

    def kept() -> Iterator[CorpusRow]:
        rows = read_rows(shard.file)
        while batch := list(itertools.islice(rows, _BATCH)):
            for row, stays in judge.judged(batch, account):
                if stays:
                    yield row
                else:
                    dropped.append(row)

    written = write_rows(shard.path(CHECKED, ".jsonl.gz"), kept())
    written += write_rows(shard.path(DROPPED, ".jsonl.gz"), dropped)
    if written != account.rows:
        raise AssertionError(f"{written} rows of {account.rows} were written of {shard.file}")
    write_json(note, {"work": work, "file": sha256(shard.file), **account.to_json()})


def work_of(config: CorpusConfig, every: Sequence[RowShard], needs_all: bool) -> str:
    """A digest of all that decides the verdict of a row."""
    files = [[shard.name, sha256(shard.file)] for shard in every] if needs_all else []
    languages = [config.languages, [source.language for source in config.sources]]
    return digest([__version__, config.check.model_dump(mode="json"), languages, list(chosen(config)), files])


def summarise(config: CorpusConfig, work: str) -> dict[str, CheckAccount]:
    """What became of the rows of each language, written to checks.json."""
    accounts: dict[str, CheckAccount] = {}
    for shard in shards_of(config.folder):
        note = read_json_object(shard.path(CHECKED, ".json"), _REMEDY)
        accounts.setdefault(shard.name.split("/")[1], CheckAccount()).add(CheckAccount.from_json(note))
    write_json(
        config.folder / CHECKED / SUMMARY,
        {"work": work, "drop": config.check.drop, "languages": {code: one.to_json() for code, one in accounts.items()}},
    )
    return accounts


def flagged(corpus: Path, name: str) -> Iterator[tuple[CorpusRow, Finding, bool]]:
    """(row, finding, whether it was dropped) of every row that a check flagged."""
    for folder in (CHECKED, DROPPED):
        for file in sorted((corpus / folder).glob("*/*/*.jsonl.gz")):
            for row in read_rows(file):
                finding = row.notes.get(FLAGS, {}).get(name)
                if finding is not None:
                    yield row, Finding(*finding), folder == DROPPED
