"""Where the files of a corpus lie.

rows/SOURCE/LANGUAGE/NNNNN.jsonl.gz   rows of a source in one language, its own or one it was translated into, in shards
rows/SOURCE/read.json                 what became of every row of the source's file, and how many shards there are
work/                                 what is not finished, and datatrove's logs
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROWS, WORK, ACCOUNT = "rows", "work", "read.json"


def source_folder(corpus: Path, source: str) -> Path:
    """Everything of one source."""
    return corpus / ROWS / source


def shard_path(corpus: Path, source: str, language: str, number: int) -> Path:
    """One shard of a source's rows in a language."""
    return source_folder(corpus, source) / language / f"{number:05d}.jsonl.gz"


def shards(corpus: Path) -> Iterator[tuple[str, str, Path]]:
    """(source, language, file) of every finished shard, in order."""
    for file in sorted((corpus / ROWS).glob("*/*/*.jsonl.gz")):
        if not file.name.startswith("."):
            yield file.parts[-3], file.parts[-2], file
