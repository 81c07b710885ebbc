"""Plain bitext: two aligned text files, or one TSV with both sides.

options: source_file and target_file, patterns below `path` with {code} (see codes), default {language}-en/train.{language}
and train.en; target_language (en); codes, a map from our language code to the one in file names (sw: swh).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmscale.data.records import ParallelSentence, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import line_pairs, text_rows
from mmscale.errors import BadRow, UserError
from mmscale.storage.reading import existing_file, is_file

_SOURCE = ("source_file", "{language}-en/train.{language}")


def _side(request: SourceRequest, option: str, default: str) -> Path:
    pattern = str(request.options.get(option, default))
    codes = request.options.get("codes", {})
    if not isinstance(codes, dict):
        raise UserError(
            "bitext: options.codes must map our language codes to those in file names, for example {sw: swh}"
        )
    name = pattern.replace("{code}", str(codes.get(request.language, request.language))).replace(
        "{language}", request.language
    )
    return existing_file(Path(request.path).expanduser() / name, "data file")


def _rows(request: SourceRequest) -> Rows:
    if is_file(Path(request.path).expanduser()) or "{" in request.path:
        for origin, row in text_rows(request.file()):
            yield origin, tuple(row.split("\t")) if isinstance(row, str) else row
        return
    source_file = str(request.options.get(*_SOURCE))
    if not request.alone and "{code}" not in source_file and "{language}" not in source_file:
        raise UserError(
            "bitext: options.source_file is one file for every language: write {code} or {language} into it"
        )
    yield from line_pairs(
        _side(request, *_SOURCE),
        _side(request, "target_file", "{language}-en/train.en"),
    )


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    if len(raw) != 2:
        raise BadRow(f"has {len(raw)} tab-separated fields, expected source and target")
    source, target = (side.strip() for side in raw)
    if not source or not target:
        raise BadRow("one side is empty")
    return ParallelSentence(source, target, request.language, str(request.options.get("target_language", "en")), origin)


SOURCE = Source(_rows, _parse, options=frozenset({"source_file", "target_file", "target_language", "codes"}))
