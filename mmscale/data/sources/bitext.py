"""Plain bitext: two aligned text files, or one TSV with both sides.

options: source_file and target_file, patterns below `path` with {code} (see codes), default {language}-en/train.{language}
and train.en; target_language (en); codes, a map from our language code to the one in file names (sw: swh).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmscale.data.records import ParallelSentence, Record
from mmscale.data.sources.base import Request, Rows, Source, checked, line_pairs
from mmscale.errors import BadRow, UserError
from mmscale.files import numbered_lines


def _side(request: Request, option: str, default: str) -> Path:
    pattern = str(request.options.get(option, default))
    codes = request.options.get("codes", {})
    if not isinstance(codes, dict):
        raise UserError(
            "bitext: options.codes must map our language codes to those in file names, for example {sw: swh}"
        )
    name = pattern.replace("{code}", str(codes.get(request.language, request.language))).replace(
        "{language}", request.language
    )
    return checked(Path(request.path).expanduser() / name)


def _rows(request: Request) -> Rows:
    if Path(request.path).is_file() or "{language}" in request.path:
        for number, text in numbered_lines(file := request.file()):
            if text.strip():
                yield f"{file}:{number}", tuple(text.split("\t"))
        return
    yield from line_pairs(
        _side(request, "source_file", "{language}-en/train.{language}"),
        _side(request, "target_file", "{language}-en/train.en"),
    )


def _parse(raw: Any, request: Request, origin: str) -> Record:
    if len(raw) != 2:
        raise BadRow(f"has {len(raw)} tab-separated fields, expected source and target")
    source, target = (side.strip() for side in raw)
    if not source or not target:
        raise BadRow("one side is empty")
    return ParallelSentence(source, target, request.language, str(request.options.get("target_language", "en")), origin)


SOURCE = Source(_rows, _parse, options=frozenset({"source_file", "target_file", "target_language", "codes"}))
