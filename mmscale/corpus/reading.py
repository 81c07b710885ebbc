"""The rows of the sources, in shards of one length, read once and in one pass; nothing of a source is held but one shard."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from mmscale.config.corpus import CorpusConfig, CorpusSourceConfig
from mmscale.corpus.layout import ACCOUNT, shard_path, source_folder
from mmscale.corpus.rows import CorpusRow, write_rows
from mmscale.data.records import Problem, Record
from mmscale.data.sources import Source, SourceRequest, source
from mmscale.errors import BadRow, LeftOut, UserError, unknown_name
from mmscale.progress import say
from mmscale.storage.files import digest, write_json
from mmscale.storage.reading import read_json_object

_FIRST = 5
"""Unreadable rows that are told with their place."""
_REMEDY = "remove the folder that it is in, its rows are read again"


@dataclass
class ReadAccount:
    """What became of every row of a source: `rows` is the sum of read, bad and left out."""

    rows: int = 0
    read: int = 0
    bad: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    first_bad: list[str] = field(default_factory=list)


def records(config: CorpusSourceConfig, account: ReadAccount) -> Iterator[Problem]:
    """The problems of a source, counted as they are read."""
    chosen = _source(config)
    request = SourceRequest(
        path=config.path, language=config.language, split=config.split, limit=config.limit, options=dict(config.options)
    )
    for origin, raw in chosen.rows(request):
        if config.limit is not None and account.read + account.bad >= config.limit:
            return
        account.rows += 1
        try:
            record = _problem(chosen, raw, request, origin, config)
        except BadRow as problem:
            account.bad += 1
            account.first_bad += [f"{origin}: {problem}"][: _FIRST - len(account.first_bad)]
        except LeftOut as reason:
            account.left_out[str(reason)] += 1
        else:
            account.read += 1
            yield record


def _source(config: CorpusSourceConfig) -> Source:
    chosen = source(config.source)
    for option in config.options:
        if option not in chosen.options:
            raise unknown_name(f"option of source {config.source}", option, chosen.options or {"(none)"})
    return chosen


def _problem(chosen: Source, raw: Any, request: SourceRequest, origin: str, config: CorpusSourceConfig) -> Problem:
    if isinstance(raw, (BadRow, LeftOut)):
        raise raw
    record: Record = chosen.parse(raw, request, origin)
    if not isinstance(record, Problem):
        raise UserError(
            f"{origin}: source {config.title} has {type(record).__name__} rows, and a corpus is of problems"
        )
    if record.language != config.language:
        raise UserError(f"source {config.title} has no language '{config.language}': its rows are {record.language}")
    if config.rationales and not record.rationale.strip():
        raise BadRow("has no rationale: set rationales: false to take questions alone")
    if record.rationale.strip() and record.rationale_language != config.language:
        raise UserError(
            f"{origin}: source {config.title} has questions in {config.language} and rationales in {record.rationale_language}: "
            f"name the language of both, or leave the rationales out by options.columns"
        )
    return record


def row_of_problem(title: str, number: int, record: Problem) -> CorpusRow:
    """The row of a source's problem, called by its place among those that were read."""
    return CorpusRow(
        problem=f"{title}-{number}",
        source=title,
        language=record.language,
        question=record.question,
        rationale=record.rationale,
        answer=record.answer or None,
        origin=record.origin,
    )


class SourceReader(PipelineStep):
    """A datatrove step that writes the shards of every source; each task reads whole sources. What is read already stays."""

    name = "rows of the sources"
    type = "reader"

    def __init__(self, config: CorpusConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for chosen in self.config.sources[rank::world_size]:
            read_source(self.config.folder, chosen, self.config.shard_rows)
        return data


def read_source(corpus: Path, config: CorpusSourceConfig, shard_rows: int) -> None:
    """Write the shards of one source, unless they are there; UserError where those that are there are of another."""
    account_file = source_folder(corpus, config.title) / ACCOUNT
    work = digest([config.model_dump(mode="json", exclude={"license"}), shard_rows])
    if account_file.is_file():
        if read_json_object(account_file, _REMEDY).get("work") != work:
            raise UserError(
                f"{account_file.parent} holds rows of other settings of source {config.title}, or of another shard_rows: remove "
                f"that folder, or choose another output_dir"
            )
        return
    account, number = ReadAccount(), 0
    rows = (row_of_problem(config.title, i, record) for i, record in enumerate(records(config, account)))
    while shard := list(itertools.islice(rows, shard_rows)):
        write_rows(shard_path(corpus, config.title, config.language, number), shard)
        number += 1
    _require_enough(config, account)
    write_json(account_file, {"work": work, "language": config.language, "shards": number, **vars(account)})
    _tell(config, account)


def _require_enough(config: CorpusSourceConfig, account: ReadAccount) -> None:
    if account.bad > config.max_bad_share * (account.read + account.bad):
        raise UserError(
            f"{account.first_bad[0]}; {account.bad} of {account.rows} rows of source {config.title} can't be read, more than "
            f"max_bad_share={config.max_bad_share}: mend the file or raise it"
        )
    if not account.read:
        raise UserError(
            f"source {config.title} at '{config.path}' has no rows of {account.rows}: check path, split and options"
        )


def _tell(config: CorpusSourceConfig, account: ReadAccount) -> None:
    left = "".join(f"; left out: {reason}, {number} rows" for reason, number in account.left_out.items())
    bad = f"; {account.bad} unreadable, first {account.first_bad[0]}" if account.bad else ""
    say(f"{config.title}: {account.read} of {account.rows} rows read{bad}{left}")


def shard_count(corpus: Path, config: CorpusSourceConfig) -> int:
    """How many shards a source has that was read."""
    return int(read_json_object(source_folder(corpus, config.title) / ACCOUNT, _REMEDY)["shards"])
