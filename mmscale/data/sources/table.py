"""Any JSONL, JSON, CSV, TSV or parquet file, or hub data set, with a column mapping.

options: columns, our field -> their column (dots reach into objects); kind = problem | parallel | choice | entailment;
`translation` of a problem, only where columns names it, in target_language (English);
language_column, to keep rows of one language, however it is written (sw, Swahili, swh_Latn); rationale_language;
target_language. A path that is no file is taken as a hub id (loaded with `datasets`, which caches it); `split` names its
split, `subset` its configuration. Cells of CSV and TSV files are the text that stands there: None, NA and 007 too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem, Record, Translation
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.pieces import Pieces, Row, Stream
from mmscale.data.sources.rows import csv_rows, file_rows, plain_text
from mmscale.data.sources.xcsqa import choices_of
from mmscale.errors import BadRow, LeftOut, UserError, unknown_name
from mmscale.languages import find_code

_FIELDS = {
    "problem": ("question", "answer", "rationale"),
    "parallel": ("source", "target"),
    "choice": ("question", "choices", "answer"),
    "entailment": ("premise", "hypothesis", "label"),
}
_NAMED_ALONE = {"problem": ("translation",)}
"""Fields that are read only where `columns` names theirs."""
_REQUIRED = {
    "problem": ("question",),
    "parallel": ("source", "target"),
    "choice": ("question", "choices"),
    "entailment": ("premise", "hypothesis"),
}
_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt")
_LAYOUTS = tuple(f"{name}{end}" for name in ("{split}", "{language}") for end in (".jsonl", ".parquet", ".csv", ".tsv"))


def _kind(request: SourceRequest) -> str:
    kind = str(request.options.get("kind", "problem"))
    if kind not in _FIELDS:
        raise unknown_name("kind of table", kind, _FIELDS)
    columns = request.options.get("columns", {})
    if not isinstance(columns, dict) or not all(isinstance(name, str) for pair in columns.items() for name in pair):
        raise UserError("table: options.columns must map our fields to column names, for example {question: Question}")
    for field in columns:
        known = (*_FIELDS[kind], *_NAMED_ALONE.get(kind, ()))
        if field not in known:
            raise unknown_name(f"field of kind {kind} in options.columns", field, known)
    return kind


def _rows(request: SourceRequest) -> Rows:
    _kind(request)
    wanted = request.options.get("language_column")
    if wanted is not None and not isinstance(wanted, str):
        raise UserError("table: options.language_column must be the name of a column")
    rows = _all_rows(request, wanted is not None)
    if wanted is None:
        return rows
    code = request.language
    return rows.mapped(lambda origin, row: row if isinstance(row, Exception) else _of_language(row, wanted, code))


def _of_language(row: dict[str, Any], column: str, code: str) -> Any:
    name = _column(row, column)
    if not isinstance(name, str) or not name.strip():
        return BadRow(f"names no language in '{column}' (columns: {', '.join(row)})")
    return row if find_code(name) == code else LeftOut(f"language {find_code(name) or name.strip():.40}")


def _all_rows(request: SourceRequest, of_many: bool) -> Pieces:
    looks_like_file = Path(request.path).suffix in _FILES or "{" in request.path
    if not looks_like_file and not Path(request.path).expanduser().exists():
        subset = _subset(request, of_many)
        return Stream(lambda: _hub_rows(request, subset), f"hub {request.path} {subset} {request.split}")
    file = request.file(*_LAYOUTS, of_many=of_many)
    return csv_rows(file) if file.suffix in (".csv", ".tsv") else file_rows(file)


def _subset(request: SourceRequest, of_many: bool) -> str | None:
    """The configuration of a data set of the hub."""
    subset = request.options.get("subset")
    if not of_many and not request.alone and "{language}" not in str(subset):
        raise UserError(
            f"data set {request.path} would be read as every language that is asked for: set options.language_column, or "
            f"options.subset with {{language}}"
        )
    return str(subset).replace("{language}", request.language) if subset else None


def _hub_rows(request: SourceRequest, subset: str | None) -> Iterator[Row]:
    import datasets  # imports slowly

    try:
        rows = datasets.load_dataset(request.path, subset, split=request.split)
    except Exception as error:  # network, permission, unknown id: all kinds
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"cannot load data set '{request.path}' (no such file, and as a hub id: {reason})") from error
    for index, row in enumerate(rows):
        yield f"{request.path}/{request.split}:row {index}", dict(row)


def _column(row: dict[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _has(row: dict[str, Any], name: str) -> bool:
    """Whether a row has a column, or the way that its dots lead."""
    if name in row:
        return True
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return value is None  # an object that this row leaves empty
        value = value[part]
    return True


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    kind = _kind(request)
    named = dict(request.options.get("columns", {}))
    columns = {field: field for field in _FIELDS[kind]} | named
    for field, column in named.items():
        if not _has(raw, column):
            raise BadRow(
                f"has no column '{column}', which options.columns names for {field} (columns: {', '.join(raw)})"
            )
    values = {field: _column(raw, column) for field, column in columns.items()}
    texts = {
        field: "" if value is None else plain_text(value, columns[field]).strip()
        for field, value in values.items()
        if field != "choices"
    }
    for field in _REQUIRED[kind]:
        if values[field] is None or texts.get(field) == "":
            raise BadRow(f"has no '{columns[field]}' for {field} (columns: {', '.join(raw)})")
    code = request.language
    if kind == "parallel":
        return ParallelSentence(
            texts["source"], texts["target"], code, str(request.options.get("target_language", "en")), origin
        )
    if kind == "entailment":
        return Entailment(texts["premise"], texts["hypothesis"], code, texts["label"], origin)
    if kind == "choice":
        return MultipleChoice(
            question=texts["question"],
            choices=choices_of(values["choices"]),
            language=code,
            answer=texts["answer"],
            origin=origin,
        )
    spoken = str(request.options.get("rationale_language", code))
    return Problem(
        question=texts["question"],
        language=code,
        answer=texts["answer"],
        rationale=texts["rationale"],
        rationale_language=spoken,
        english_question="",
        origin=origin,
        translation=_translation(texts.get("translation"), request),
    )


def _translation(text: str | None, request: SourceRequest) -> Translation | None:
    return Translation((text,), str(request.options.get("target_language", "en"))) if text else None


SOURCE = Source(
    _rows,
    _parse,
    options=frozenset({"columns", "kind", "language_column", "target_language", "rationale_language", "subset"}),
)
