"""Any JSONL, JSON, CSV or parquet file, or hub data set, with a column mapping.

options: columns, our field -> their column (dots reach into objects); kind = problem | parallel | choice | entailment;
language_column, to keep rows of one language; rationale_language. A path that is no file is taken as a hub id
(loaded with `datasets`, which caches it); `split` names its split, `subset` its configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows
from mmscale.data.sources.xcsqa import choices_of
from mmscale.errors import BadRow, UserError, unknown_name

_FIELDS = {
    "problem": ("question", "answer", "rationale"),
    "parallel": ("source", "target"),
    "choice": ("question", "choices", "answer"),
    "entailment": ("premise", "hypothesis", "label"),
}
_REQUIRED = {
    "problem": ("question",),
    "parallel": ("source", "target"),
    "choice": ("question", "choices"),
    "entailment": ("premise", "hypothesis"),
}


def _kind(request: Request) -> str:
    kind = str(request.options.get("kind", "problem"))
    if kind not in _FIELDS:
        raise unknown_name("kind of table", kind, _FIELDS)
    for field in request.options.get("columns", {}):
        if field not in _FIELDS[kind]:
            raise unknown_name(f"field of kind {kind} in options.columns", field, _FIELDS[kind])
    return kind


def _rows(request: Request) -> Rows:
    _kind(request)
    wanted = request.options.get("language_column")
    for origin, row in _all_rows(request):
        if isinstance(row, BadRow) or wanted is None or str(row.get(wanted)) == request.language:
            yield origin, row


def _all_rows(request: Request) -> Rows:
    looks_like_file = (
        Path(request.path).suffix in (".json", ".jsonl", ".csv", ".parquet", ".txt") or "{" in request.path
    )
    if not looks_like_file and not Path(request.path).exists():
        yield from _hub_rows(request)
        return
    file = request.file("{split}.jsonl", "{split}.parquet", "{language}.jsonl", "{language}.parquet")
    if file.suffix in (".csv", ".parquet"):
        yield from _datasets_rows(str(file), file.suffix[1:])
    else:
        yield from json_rows(file)


def _datasets_rows(file: str, form: str) -> Rows:
    import datasets  # imports slowly

    try:
        for index, row in enumerate(datasets.load_dataset(form, data_files=file, split="train", streaming=True)):
            yield f"{file}:row {index}", dict(row)
    except Exception as error:  # datasets raises its readers' own kinds of error
        raise UserError(f"cannot read {file} as {form}: {str(error).splitlines()[0]}") from error


def _hub_rows(request: Request) -> Rows:
    import datasets

    subset = request.options.get("subset")
    try:
        rows = datasets.load_dataset(
            request.path, subset and str(subset).replace("{language}", request.language), split=request.split
        )
    except Exception as error:  # network, permission, unknown id: all kinds
        raise UserError(
            f"cannot load data set '{request.path}' (no such file, and as a hub id: {str(error).splitlines()[0]})"
        ) from error
    for index, row in enumerate(rows):
        yield f"{request.path}/{request.split}:row {index}", dict(row)


def _column(row: dict[str, Any], name: str) -> Any:
    value: Any = row
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _parse(raw: Any, request: Request, origin: str) -> Record:
    kind = _kind(request)
    columns = {field: field for field in _FIELDS[kind]} | dict(request.options.get("columns", {}))
    values = {field: _column(raw, str(column)) for field, column in columns.items()}
    for field in _REQUIRED[kind]:
        if values[field] in (None, ""):
            raise BadRow(f"has no '{columns[field]}' for {field} (columns: {', '.join(raw)})")
    texts = {field: str(value).strip() if value is not None else "" for field, value in values.items()}
    code = request.language
    if kind == "parallel":
        return ParallelSentence(
            texts["source"], texts["target"], code, str(request.options.get("target_language", "en")), origin
        )
    if kind == "entailment":
        return Entailment(texts["premise"], texts["hypothesis"], code, texts["label"], origin)
    if kind == "choice":
        return MultipleChoice(texts["question"], choices_of(values["choices"]), code, texts["answer"], origin=origin)
    spoken = str(request.options.get("rationale_language", code))
    return Problem(texts["question"], code, texts["answer"], texts["rationale"], spoken, "", origin)


SOURCE = Source(
    _rows,
    _parse,
    options=frozenset({"columns", "kind", "language_column", "target_language", "rationale_language", "subset"}),
)
