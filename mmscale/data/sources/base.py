"""What a source is: raw rows with their place in a file, and how one row becomes a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmscale.data.records import Record
from mmscale.errors import BadRow, UserError
from mmscale.files import existing_file, numbered_lines
from mmscale.languages import language

Rows = Iterator[tuple[str, Any]]
"""(origin "file:line", raw row); a raw row may be a BadRow, which is counted."""


@dataclass(frozen=True)
class Request:
    """One language of one data set."""

    path: str
    language: str
    split: str = "train"
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def file(self, *layouts: str) -> Path:
        """The file asked for: `path` itself, with {language}, {Language} and {split} filled in, or the first of
        `layouts` that exists below it."""
        names = {"language": self.language, "Language": language(self.language).name, "split": self.split}
        path = Path(_fill(self.path, names)).expanduser()
        if path.is_file():
            return path
        if not path.is_dir():
            raise UserError(f"data not found: {path} is neither a file nor a folder; check data.path")
        tried = [path / _fill(layout, names) for layout in layouts]
        for candidate in tried:
            if candidate.is_file():
                return candidate
        raise UserError(
            f"no file for language '{self.language}' under {path}: looked for {', '.join(t.name for t in tried)}; "
            f"leave the language out, or give data.path as a pattern with {{language}}"
        )


def _fill(pattern: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        pattern = pattern.replace("{" + name + "}", value)
    return pattern


@dataclass(frozen=True)
class Source:
    """One public data set."""

    rows: Callable[[Request], Rows]
    parse: Callable[[Any, Request, str], Record]
    """(raw row, request, origin) -> record; raises BadRow."""
    languages: tuple[str, ...] = ()
    """Languages it exists in; empty means whatever files are there."""
    options: frozenset[str] = frozenset()
    """Names of the options it understands."""
    generated: bool = False
    """Made by a program rather than read: the filters for faults of published files are not run."""


def json_rows(path: Path) -> Rows:
    """Objects of a JSONL file or of one JSON array, whatever the suffix says."""
    lines = numbered_lines(path)
    first = next(((number, text) for number, text in lines if text.strip()), None)
    if first is None:
        return
    if first[1].lstrip().startswith("["):
        yield from _array_rows(path)
        return
    yield f"{path}:{first[0]}", _object(first[1])
    for number, text in lines:
        if text.strip():
            yield f"{path}:{number}", _object(text)


def _object(text: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        return BadRow(f"not valid JSON ({error.msg} at column {error.colno})")
    return value if isinstance(value, dict) else BadRow("not a JSON object")


def _array_rows(path: Path) -> Rows:
    text = "\n".join(line for _, line in numbered_lines(path))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{error.lineno} is not valid JSON ({error.msg}); mend the array there") from error
    for index, value in enumerate(values):
        yield f"{path}:row {index}", value if isinstance(value, dict) else BadRow("not a JSON object")


def line_pairs(left: Path, right: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Lines of two aligned files, paired; UserError when one is longer."""
    a, b = list(numbered_lines(left)), list(numbered_lines(right))
    if len(a) != len(b):
        raise UserError(f"{left} has {len(a)} lines but {right} has {len(b)}: they must be aligned line by line")
    for (number, x), (_, y) in zip(a, b, strict=True):
        yield f"{left}:{number}", (x, y)


def text_field(row: dict[str, Any], *names: str) -> str:
    """The first of `names` that the row has, as text; BadRow when it has none or it is empty."""
    for name in names:
        if name in row and row[name] is not None:
            text = str(row[name]).strip()
            if not text:
                raise BadRow(f"'{name}' is empty")
            return text
    raise BadRow(f"has no '{names[0]}' (keys: {', '.join(map(str, row)) or 'none'})")


def checked(path: Path) -> Path:
    return existing_file(path, "data file")
