"""mCoT-MATH (Lai & Nissim 2024): rows {lang-id, question, answer} of eleven languages, in one file or one a language."""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.data.sources.problems import marked_answer, stated_answer
from mmscale.errors import BadRow
from mmscale.languages import MGSM_LANGUAGES

_LANGUAGE_KEYS = ("lang-id", "lang_id", "lang", "language")


def _row_language(row: dict[str, Any]) -> str | None:
    return next((str(row[key]) for key in _LANGUAGE_KEYS if key in row), None)


def _rows(request: Request) -> Rows:
    file = request.file(
        "{language}.jsonl",
        "train_{language}.json",
        "mcot_math_{language}.jsonl",
        "mCoT-MATH.jsonl",
        "train.jsonl",
        "train.json",
    )
    for origin, row in json_rows(file):
        if isinstance(row, BadRow) or _row_language(row) in (None, request.language):
            yield origin, row


def _parse(raw: Any, request: Request, origin: str) -> Record:
    answer = text_field(raw, "answer", "response")
    return Problem(
        text_field(raw, "question"),
        request.language,
        marked_answer(answer) or stated_answer(answer),
        answer,
        request.language,
        "",
        origin,
    )


SOURCE = Source(_rows, _parse, MGSM_LANGUAGES)
