"""A data file with the translation of a field in every row; all that the rows hold beside is kept as it is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmscale.data.records import Problem
from mmscale.data.sources.rows import csv_rows, file_rows, row_language
from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.progress import say
from mmscale.storage.files import atomic_write
from mmscale.translation.questions import Translations


@dataclass(frozen=True)
class Fields:
    """Which field of a row is translated, and where its translation goes."""

    field: str = "question"
    into: str = "translation"
    language: str | None = None
    """ISO code of the language that every row is in; None where each row names its own."""


def read_rows(files: Sequence[Path], fields: Fields) -> list[tuple[Problem, dict[str, Any]]]:
    """(text to translate, the row) of every row of JSONL, JSON, parquet, or CSV and TSV files with a header.

    UserError naming the first row that cannot be read, has no such text or another language; empty lines are counted and told.
    """
    rows, empty = [], 0
    for file in files:
        for origin, row in csv_rows(file) if file.suffix in (".csv", ".tsv") else file_rows(file):
            if isinstance(row, LeftOut):
                empty += 1
                continue
            try:
                rows.append((_text(row, origin, fields), row))
            except BadRow as problem:
                raise UserError(f"{origin}: {problem}; mend or remove the row") from problem
    if empty:
        say(f"{empty} empty lines are left out")
    if not rows:
        raise UserError(f"{', '.join(map(str, files))}: no rows, nothing to translate")
    return rows


def _text(row: Any, origin: str, fields: Fields) -> Problem:
    if isinstance(row, BadRow):
        raise row
    text = row.get(fields.field)
    if not isinstance(text, str) or not text.strip():
        there = (
            f"is {type(text).__name__}, not text" if fields.field in row and not isinstance(text, str) else "is empty"
        )
        raise BadRow(
            f"'{fields.field}' {there}" if fields.field in row else f"has no '{fields.field}' (keys: {', '.join(row)})"
        )
    if fields.into in row and fields.into != fields.field:
        raise BadRow(f"has a '{fields.into}' already, which would be lost: name another field by --into")
    named = row_language(row)
    if fields.language is not None and named not in (None, fields.language):
        raise BadRow(f"is in {named} as it says itself, not in {fields.language}: leave --from out")
    if fields.language is None and named is None:
        raise BadRow("names no language: say which by --from")
    return Problem(question=text, language=fields.language or named or "", origin=origin)


def translate_files(files: Sequence[Path], output: Path, fields: Fields, translations: Translations) -> None:
    """Write the rows of all files, in order, as JSON lines with their translations; whole or not at all. All ranks call it."""
    rows = read_rows(files, fields)
    records = translations.of([record for record, _ in rows], str(output))

    def write() -> None:
        with atomic_write(output) as handle:
            handle.writelines(_lines([row for _, row in rows], [record.translated.text for record in records], fields))

    translations.context.on_first(write)


def _lines(rows: Sequence[dict[str, Any]], texts: Sequence[str], fields: Fields) -> Iterator[str]:
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), start=1):
        try:
            yield json.dumps({**row, fields.into: text}, ensure_ascii=False, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:  # what parquet holds and JSON does not: dates, bytes, NaN
            raise UserError(f"row {number} holds what JSON has no form for ({error}): leave that column out") from error
