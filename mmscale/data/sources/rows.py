"""Every row of a file, in the forms data sets are published in; what cannot be read is a BadRow with its place.

Nothing is passed over: an empty line is a LeftOut, so that records, bad rows and rows left out add up to the file.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmscale.data.sources.base import Rows, SourceRequest
from mmscale.data.sources.pieces import EMPTY, Lines, Mapped, Parquet, Pieces, Row, Stream
from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.languages import find_code
from mmscale.storage.reading import NotJson, count_lines, numbered_lines, parse_json, read_text

LANGUAGE_KEYS = ("lang-id", "lang_id", "lang", "language")
"""mCoT-MATH; MindMerger's math.json and X-CSR; XNLI"""
_FIELD_CHARACTERS = 1 << 27
"""Most characters of a CSV field; Python's own limit of 131,072 is less than a long document."""


def text_rows(path: Path) -> Lines:
    """Lines of a text file."""
    return Lines(path)


def file_rows(path: Path) -> Pieces:
    """Objects of a parquet file, of JSONL, or of one JSON array."""
    return Parquet(path) if path.suffix == ".parquet" else json_rows(path)


def json_rows(path: Path) -> Pieces:
    """Objects of a JSONL file, of one JSON array, or of an array under the key `data`, whatever the suffix says."""
    first = next((text.strip() for _, text in numbered_lines(path) if text.strip()), "")
    if first.startswith("[") or first == "{" or (first.startswith("{") and _wrapped(first) is not None):
        return Stream(lambda: _array_rows(path), f"array {path}")
    return Lines(path, _object)


def _wrapped(text: str) -> list[Any] | None:
    """The rows of {"data": [...]}, or None for anything else."""
    try:
        value = parse_json(text)
    except NotJson:
        return None
    rows = value.get("data") if isinstance(value, dict) and len(value) == 1 else None
    return rows if isinstance(rows, list) else None


def _object(text: str) -> Any:
    try:
        value = parse_json(text)
    except NotJson as error:
        return BadRow(str(error))
    return value if isinstance(value, dict) else BadRow("not a JSON object")


def _array_rows(path: Path) -> Iterator[Row]:
    try:
        value = parse_json(read_text(path))
    except NotJson as error:
        raise UserError(f"{path}:{error.line} {_said(error)}; mend the array there") from error
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list):
        raise UserError(f"{path} holds one JSON object and no rows: write an array, or an object a line")
    for index, row in enumerate(rows):
        yield f"{path}:row {index}", row if isinstance(row, dict) else BadRow("not a JSON object")


def _said(error: NotJson) -> str:
    return f"{'' if str(error).startswith('holds') else 'is '}{error}"


def csv_rows(path: Path, quoted: bool = False) -> Stream:
    """Rows of a CSV file with a header, or of a TSV file, in which no quotes count unless it is `quoted`: every value is the
    text in the file."""
    return Stream(lambda: _csv_rows(path, quoted), f"table {path}")


def _csv_rows(path: Path, quoted: bool) -> Iterator[Row]:
    tabs = path.suffix == ".tsv"
    csv.field_size_limit(_FIELD_CHARACTERS)
    lines = (text + "\n" for _, text in numbered_lines(path))
    if tabs and not quoted:
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter="\t" if tabs else ",", strict=True)
    header: list[str] | None = None
    for origin, fields in _csv_records(path, reader):
        if isinstance(fields, Exception):
            if header is None:
                raise UserError(f"{origin} {fields}: the first line has to name the columns") from fields
            yield origin, fields
        elif header is None:
            header = _header(path, fields)
        elif len(fields) != len(header):
            yield origin, BadRow(f"has {len(fields)} fields, the header has {len(header)}")
        else:
            yield origin, dict(zip(header, fields, strict=True))


def _header(path: Path, fields: list[str]) -> list[str]:
    names = [name.strip() for name in fields]
    for name in names:
        if not name or names.count(name) > 1:
            raise UserError(f"{path}:1 names the column '{name}' {names.count(name)} times: give each its own name")
    return names


def _csv_records(path: Path, reader: Any) -> Iterator[tuple[str, Any]]:
    while True:
        origin = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise UserError(f"{origin} opens a quote that nothing closes: mend that line") from error
            yield origin, BadRow(f"not valid CSV ({error})")
            continue
        if any("\0" in field for field in fields):
            yield origin, BadRow("holds NUL bytes, as a power failure leaves them")
        else:
            yield origin, fields if fields else LeftOut(EMPTY)


def line_pairs(left: Path, right: Path) -> Rows:
    """Lines of two aligned files, paired; UserError when one is longer."""
    counts = count_lines(left), count_lines(right)
    if counts[0] != counts[1]:
        raise UserError(f"{left} has {counts[0]} lines but {right} has {counts[1]}: they must be aligned line by line")
    for (origin, x), (_, y) in zip(text_rows(left), text_rows(right), strict=True):
        yield origin, _pair(x, y)


def _pair(x: Any, y: Any) -> Any:
    damaged = next((side for side in (x, y) if isinstance(side, BadRow)), None)
    empty = isinstance(x, LeftOut) or isinstance(y, LeftOut)
    return damaged or (BadRow("one side is empty") if empty else (x, y))


def row_language(row: Any) -> str | None:
    """The code of the language a row names, None where it names none; BadRow when it is no language."""
    if not isinstance(row, dict):
        return None
    key = next((key for key in LANGUAGE_KEYS if key in row), None)
    if key is None:
        return None
    name = row[key]
    code = find_code(name) if isinstance(name, str) else None
    if code is None:
        raise BadRow(f"{key} {name!r:.60} is no language that mmscale knows")
    return code


def of_language(rows: Pieces | Mapped, request: SourceRequest, shared: bool) -> Mapped:
    """Rows that name the language asked for; those of others are left out.

    In a file of several languages (`shared`) a row that names none is bad; a file that names none at all serves one
    language alone.
    """

    @functools.cache
    def named() -> bool:
        return shared and any(isinstance(row, dict) and set(LANGUAGE_KEYS) & set(row) for _, row in rows)

    def each(origin: str, row: Any) -> Any:
        if shared and not request.alone and not named():
            raise UserError(
                f"{origin}: the file is one for several languages, but its rows name none: add a key lang, or give "
                f"data.path as a pattern with {{language}}"
            )
        return _of_language(row, request.language, named())

    return rows.mapped(each)


def _of_language(row: Any, wanted: str, has_to_name: bool) -> Any:
    try:
        code = row_language(row)
    except BadRow as error:
        return error
    if code is None:
        return (
            BadRow(f"names no language ({', '.join(LANGUAGE_KEYS)})") if has_to_name and isinstance(row, dict) else row
        )
    return row if code == wanted else LeftOut(f"language {code}")


def plain_text(value: Any, name: str) -> str:
    """A text or finite number as it stands in a row; BadRow for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadRow(f"'{name}' is {type(value).__name__}, not text")
    if not math.isfinite(value):
        raise BadRow(f"'{name}' is {value}, not a number")
    return str(value)


def text_field(row: dict[str, Any], *names: str) -> str:
    """The first of `names` that the row has, as text without space around it; BadRow when it has none or it is empty."""
    return raw_text_field(row, *names).strip()


def raw_text_field(row: dict[str, Any], *names: str) -> str:
    """`text_field` with the space that stands around it."""
    for name in names:
        if row.get(name) is not None:
            text = plain_text(row[name], name)
            if not text.strip():
                raise BadRow(f"'{name}' is empty")
            return text
    raise BadRow(f"has no '{names[0]}' (keys: {', '.join(map(str, row)) or 'none'})")


def optional_text(row: dict[str, Any], *names: str) -> str:
    """The first of `names` that the row has, as text; empty when it has none."""
    return next((plain_text(row[name], name).strip() for name in names if row.get(name) is not None), "")
