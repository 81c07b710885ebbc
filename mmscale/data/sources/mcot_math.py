"""mCoT-MATH (Lai & Nissim 2024): rows {lang-id, question, answer} of eleven languages, in one file or one per language."""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import marked_answer, stated_answer
from mmscale.data.sources.rows import file_rows, of_language, text_field
from mmscale.languages import MGSM_LANGUAGES

_LAYOUTS = (
    "{language}.jsonl",
    "train_{language}.json",
    "mcot_math_{language}.jsonl",
    "mCoT-MATH.jsonl",
    "train.jsonl",
    "train.json",
)


def _rows(request: SourceRequest) -> Rows:
    file = request.file(*_LAYOUTS, of_many=True)
    return of_language(file_rows(file), request, request.shares(*_LAYOUTS))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    answer = text_field(raw, "answer", "response")
    return Problem(
        question=text_field(raw, "question"),
        language=request.language,
        answer=marked_answer(answer) or stated_answer(answer),
        rationale=answer,
        rationale_language=request.language,
        english_question="",
        origin=origin,
    )


SOURCE = Source(_rows, _parse, MGSM_LANGUAGES)
