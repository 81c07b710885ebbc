"""A row of a corpus: a word problem in one language, and all that it went through.

On disk a row is a datatrove Document, a line of JSON: `text` is the question, `id` the row's, everything else stands in `metadata`.
datatrove's JsonlReader reads these files as they are.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datatrove.data import Document
from pydantic import TypeAdapter, ValidationError

from mmscale.errors import UserError
from mmscale.storage.files import atomic_write
from mmscale.storage.reading import NotJson, parse_json

_LEVEL = 6
"""gzip's: slower ones gain less than a hundredth."""


@dataclass(frozen=True, kw_only=True)
class TranslationNote:
    """How a row was translated."""

    backend: str
    """Name of the translator (`mmscale list translators`)."""
    model: str
    """What it translated with, as its configuration names it."""
    finished: bool = True
    """Every text of it ended by itself, not at its longest."""
    source_cut: bool = False
    """A text was longer than what is read of it."""
    empty: bool = False
    """A text of it was translated into nothing."""
    passages: int = 0
    """Pieces of text that were translated by themselves."""
    restored_marks: tuple[str, ...] = ()
    """Formulas, code, links that the translator lost, and that stand in their places since what is around them was translated
    piece by piece."""
    lost_marks: tuple[str, ...] = ()
    """Numbers and marks of the source that the translation does not hold."""


@dataclass(frozen=True, kw_only=True)
class CorpusRow:
    """A word problem in one language."""

    problem: str
    """The problem's own id, `SOURCE-NUMBER`: the same in every language."""
    source: str
    """Title of the source in the corpus's configuration."""
    language: str
    """Code of the language of question and rationale."""
    question: str
    rationale: str = ""
    """Chain of thought; empty where the source has none."""
    answer: str | None = None
    """Gold answer; null where the source names none."""
    origin: str = ""
    """Where the source row was read: "file:line"."""
    source_language: str | None = None
    """Code of the language that it was translated from; null of a row of the source."""
    source_question: str | None = None
    source_rationale: str | None = None
    translation: TranslationNote | None = None
    """How it was translated; null of a row of the source."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What other steps say of it, under a key of their own."""

    @property
    def id(self) -> str:
        """The row's own id, once in a corpus."""
        return f"{self.problem}.{self.language}"


_ROW = TypeAdapter(CorpusRow)


def to_document(row: CorpusRow) -> Document:
    """The row as datatrove passes it from step to step; `row_of` is its inverse."""
    metadata = asdict(row)
    return Document(text=metadata.pop("question"), id=row.id, metadata=metadata)


def row_of(document: Document) -> CorpusRow:
    """The row that a Document says; what the metadata holds beside a row's own keys goes into `notes`. UserError where it is none."""
    own = {key: value for key, value in document.metadata.items() if key in CorpusRow.__dataclass_fields__}
    beside = {key: value for key, value in document.metadata.items() if key not in own and key != "file_path"}
    notes = {**own.pop("notes", {}), **beside}
    try:
        return _ROW.validate_python({**own, "question": document.text, "notes": notes})
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"document {document.id!r:.80} is no row of a corpus ({'.'.join(map(str, first['loc']))}: {first['msg']}): read files "
            f"that `mmscale corpus` wrote"
        ) from error


def write_rows(path: Path, rows: Iterable[CorpusRow]) -> int:
    """Write a .jsonl.gz of rows, whole or not at all, the same bytes for the same rows; returns their number."""
    count = 0
    with (
        atomic_write(path, "wb") as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="utf-8") as lines,
    ):
        for row in rows:
            document = to_document(row)
            content = {"text": document.text, "id": document.id, "metadata": document.metadata}
            lines.write(json.dumps(content, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_rows(path: Path) -> Iterator[CorpusRow]:
    """The rows of a .jsonl.gz, one in memory at a time; UserError with file and line where it is damaged or holds something else."""
    number = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, start=1):
                yield _read(line, f"{path}:{number}")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read behind line {number} ({error}): remove it, the step that wrote it makes it again"
        ) from error


def _read(line: str, origin: str) -> CorpusRow:
    try:
        content = parse_json(line)
        return row_of(Document(content["text"], content["id"], metadata=content["metadata"]))
    except (NotJson, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{origin} is no row of a corpus ({error}): remove the file, its step makes it again"
        ) from error
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error
