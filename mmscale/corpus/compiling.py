"""Compiling checked rows: ranked, taken, split, put in an order by chance, and written as parquet files with a manifest.

work/compile-WORK/ranks/SHARD.npy        rank of every row of a checked shard, by its problem
work/compile-WORK/spilled/SHARD.parquet  rows that are taken, one group of rows for each file that they go into
.NAME.WORK/ beside the compiled folder   its files, then its manifest, card and previews; in the end it takes that folder's place

The file that a row goes into and its place there follow from a hash of its id. No step holds more than one shard or one file.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from mmscale import __version__
from mmscale.config.corpus import CorpusConfig
from mmscale.corpus.checking import CHECKED, FLAGS, RowShard, shards_of
from mmscale.corpus.layout import WORK
from mmscale.corpus.mixture import Cell
from mmscale.corpus.rows import CorpusRow, read_rows
from mmscale.data.overlap import normalised
from mmscale.errors import UserError
from mmscale.storage.files import atomic_write, digest, sha256, write_json
from mmscale.storage.reading import read_json_object

SPLITS = ("train", "validation")
_COLUMNS = (
    "id",
    "problem",
    "source",
    "language",
    "question",
    "rationale",
    "answer",
    "source_language",
    "source_question",
)
_FORM = pa.schema([*((name, pa.string()) for name in _COLUMNS), ("flags", pa.list_(pa.string()))])
_MCOT = pa.schema([("lang-id", pa.string()), ("question", pa.string()), ("answer", pa.string())])
_KEY = ("_key", pa.uint64())
_SPAN = 1 << 64
_GROUP = 2000
"""Rows of a group of rows in a finished file."""
_REMEDY = "remove it, the next mmscale corpus compile makes it again"


def _hash(*parts: object) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest(), "big")


def rank_of(row: CorpusRow, seed: int) -> int:
    """By which the rows of a cell are taken, the lowest first: the same problem in every language has the same."""
    return _hash("rank", seed, row.problem)


def is_validation(row: CorpusRow, config: CorpusConfig) -> bool:
    """Whether a row is in the validation split: by the text of its original, so that a problem which stands in several sources, or
    with several solutions, is on one side in all of its translations."""
    original = normalised(row.source_question or row.question)
    return _hash("split", config.compile.seed, original) < config.compile.validation_share * _SPAN


@dataclass(frozen=True)
class Taking:
    """Which rows of a cell are taken: all of them so many times, and once more those of a rank up to a limit."""

    times: int
    limit: int
    """The highest rank that is taken once more; -1 for none."""

    def copies(self, rank: int) -> int:
        return self.times + (rank <= self.limit)


def takings(ranks: Mapping[Cell, np.ndarray], targets: Mapping[Cell, int]) -> dict[str, Taking]:
    """As many rows of each cell as it shall give, exactly."""
    chosen = {}
    for cell, own in ranks.items():
        times, once_more = divmod(targets[cell], max(1, len(own)))
        limit = int(np.partition(own, once_more - 1)[once_more - 1]) if once_more else -1
        chosen["/".join(cell)] = Taking(times, limit)
    return chosen


@dataclass(frozen=True)
class CompileWork:
    """The compiling of one corpus: where its unfinished files lie, and of which shards it is."""

    config: CorpusConfig
    work: str

    @property
    def folder(self) -> Path:
        return self.config.folder / WORK / f"compile-{self.work}"

    @property
    def target(self) -> Path:
        """The compiled folder."""
        return Path(self.config.compile.folder or self.config.folder / "compiled").expanduser()

    @property
    def made(self) -> Path:
        return self.target.with_name(f".{self.target.name}.{self.work}")

    def shards(self) -> list[RowShard]:
        return shards_of(self.config.folder)

    def ranks(self, shard: RowShard) -> Path:
        return self.folder / "ranks" / f"{shard.name}.npy"

    def spilled(self, shard: RowShard) -> Path:
        return self.folder / "spilled" / f"{shard.name}.parquet"


def begun(config: CorpusConfig) -> CompileWork:
    """The work that a configuration and the checked rows stand for; UserError where a shard is not checked as it is now."""
    files = []
    for shard in shards_of(config.folder):
        note, rows = shard.path(CHECKED, ".json"), shard.path(CHECKED, ".jsonl.gz")
        known = read_json_object(note, _REMEDY) if note.is_file() and rows.is_file() else {}
        if known.get("file") != sha256(shard.file):
            raise UserError(f"{shard.file} is not checked as it is now: run mmscale corpus check first")
        files.append([shard.name, known["work"], sha256(rows)])
    if len({work for _, work, _ in files}) > 1:
        raise UserError(f"shards of {config.folder} were checked by different settings: run mmscale corpus check again")
    settings = config.compile.model_dump(mode="json", exclude={"folder", "title"})
    return CompileWork(config, digest([__version__, settings, files]))


class RankShards(PipelineStep):
    """The first pass: the rank of each row. Each task ranks every so many shards."""

    name = "ranks of rows"
    type = "compile"

    def __init__(self, work: CompileWork) -> None:
        super().__init__()
        self.work = work

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for shard in self.work.shards()[rank::world_size]:
            path = self.work.ranks(shard)
            if not path.is_file():
                rows = read_rows(shard.path(CHECKED, ".jsonl.gz"))
                ranks = np.fromiter((rank_of(row, self.work.config.compile.seed) for row in rows), dtype=np.uint64)
                with atomic_write(path, "wb") as file:
                    np.save(file, ranks)
        return data


def cell_of(shard: RowShard) -> Cell:
    source, language, _ = shard.name.split("/")
    return source, language


def ranks_of_cells(work: CompileWork) -> dict[Cell, np.ndarray]:
    """(source, language) -> ranks of its checked rows."""
    parts: dict[Cell, list[np.ndarray]] = defaultdict(list)
    for shard in work.shards():
        parts[cell_of(shard)].append(np.load(work.ranks(shard), allow_pickle=False))
    return {cell: np.concatenate(some) for cell, some in parts.items()}


@dataclass(frozen=True)
class Layout:
    """How many files each split has, and what is taken."""

    files: dict[str, int]
    takings: dict[str, Taking]
    """"SOURCE/LANGUAGE" -> what is taken of it; datatrove writes steps as JSON, whose keys are text."""

    def place(self, split: str, key: int) -> int:
        """Number of the file that a row of this key goes into."""
        return key * self.files[split] // _SPAN


def schema_of(config: CorpusConfig) -> pa.Schema:
    """Columns of a compiled corpus."""
    return _MCOT if config.compile.form == "mcot" else _FORM


def content(row: CorpusRow, form: str) -> dict[str, Any]:
    """A row as it stands in a compiled corpus."""
    if form == "mcot":
        return {"lang-id": row.language, "question": row.question, "answer": row.rationale}
    return {**{name: getattr(row, name) for name in _COLUMNS}, "flags": sorted(row.notes.get(FLAGS, {}))}


class SpillShards(PipelineStep):
    """The second pass: the rows that are taken, in groups by the file that they go into. Each task spills every so many shards."""

    name = "rows by file"
    type = "compile"

    def __init__(self, work: CompileWork, layout: Layout) -> None:
        super().__init__()
        self.work, self.layout = work, layout

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for shard in self.work.shards()[rank::world_size]:
            if not self.work.spilled(shard).with_suffix(".json").is_file():
                self._spill(shard)
        return data

    def _spill(self, shard: RowShard) -> None:
        taking = self.layout.takings["/".join(cell_of(shard))]
        by_file: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
        for row in read_rows(shard.path(CHECKED, ".jsonl.gz")):
            for split, key, told in self._taken(row, taking):
                by_file[split, self.layout.place(split, key)].append({**told, "_key": key})
        schema = schema_of(self.work.config).append(pa.field(*_KEY))
        path = self.work.spilled(shard)
        with atomic_write(path, "wb") as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for place in sorted(by_file):
                table = pa.Table.from_pylist(by_file[place], schema=schema)
                writer.write_table(table, row_group_size=max(1, len(table)))
        groups = {f"{split}-{number}": i for i, (split, number) in enumerate(sorted(by_file))}
        write_json(path.with_suffix(".json"), groups)

    def _taken(self, row: CorpusRow, taking: Taking) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(split, key, row) of every copy; of the validation split, one."""
        config = self.work.config
        copies = taking.copies(rank_of(row, config.compile.seed))
        split = SPLITS[is_validation(row, config)] if "validation" in self.layout.files else "train"
        told = content(row, config.compile.form)
        for copy in range(copies if split == "train" else min(copies, 1)):
            yield split, _hash("order", config.compile.seed, row.id, copy), told


class WriteFiles(PipelineStep):
    """The third: the files of the corpus, each of the groups that go into it, in the order of their keys."""

    name = "files of the corpus"
    type = "compile"

    def __init__(self, work: CompileWork, layout: Layout) -> None:
        super().__init__()
        self.work, self.layout = work, layout

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        names = [(split, number) for split, count in self.layout.files.items() for number in range(count)]
        for split, number in itertools.islice(names, rank, None, world_size):
            self._write(split, number)
        return data

    def _write(self, split: str, number: int) -> None:
        path = self.work.made / file_name(split, number, self.layout.files[split])
        note = self.work.folder / "files" / f"{path.name}.json"
        if note.is_file() and path.is_file() and read_json_object(note, _REMEDY)["sha256"] == sha256(path):
            return
        parts = [part for shard in self.work.shards() for part in self._groups(shard, f"{split}-{number}")]
        schema = schema_of(self.work.config)
        table = pa.concat_tables(parts).sort_by(_KEY[0]).drop_columns(_KEY[0]) if parts else schema.empty_table()
        with atomic_write(path, "wb") as file:
            pq.write_table(table.cast(schema), file, row_group_size=_GROUP, compression="zstd")
        column = "lang-id" if "lang-id" in table.column_names else "language"
        counts = table.column(column).value_counts().to_pylist() if len(table) else []
        languages = {one["values"]: one["counts"] for one in counts}
        entry = {"name": file_name(split, number, self.layout.files[split]), "rows": len(table), "sha256": sha256(path)}
        write_json(note, {**entry, "bytes": path.stat().st_size, "languages": dict(sorted(languages.items()))})

    def _groups(self, shard: RowShard, name: str) -> list[pa.Table]:
        path = self.work.spilled(shard)
        groups = read_json_object(path.with_suffix(".json"), _REMEDY)
        return [pq.ParquetFile(path).read_row_group(groups[name])] if name in groups else []


def file_name(split: str, number: int, count: int) -> str:
    """As the hub names the files of a split."""
    return f"data/{split}-{number:05d}-of-{count:05d}.parquet"


def layout_of(work: CompileWork, ranks: Mapping[Cell, np.ndarray], targets: Mapping[Cell, int]) -> Layout:
    """The files of a corpus of that many rows; UserError where nothing is left."""
    config, rows = work.config.compile, sum(targets.values())
    if not rows:
        raise UserError(
            f"no row of {work.config.folder} is left to compile: look at mmscale corpus check, compile.weights and caps"
        )
    shares = {"train": 1 - config.validation_share, "validation": config.validation_share}
    files = {split: max(1, round(rows * share / config.shard_rows)) for split, share in shares.items() if share}
    return Layout(files, takings(ranks, targets))
