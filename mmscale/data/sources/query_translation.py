"""The MindMerger authors' `query_translation`: questions in x with English responses.

Forms: math.json, one JSON array {lang: "Swahili", query, response} of all languages, as their code reads it; or a JSON
array or JSONL a language.
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import marked_answer
from mmscale.data.sources.rows import file_rows, of_language, optional_text, text_field

_LAYOUTS = (
    "metamath_{Language}.json",
    "metamath_{language}.json",
    "{Language}.json",
    "{language}.json",
    "{language}.jsonl",
    "train_{language}.json",
    "math.json",
    "query_translation/math.json",
)


def _rows(request: SourceRequest) -> Rows:
    file = request.file(*_LAYOUTS, of_many=True)
    return of_language(file_rows(file), request, request.shares(*_LAYOUTS))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    response = text_field(raw, "response", "answer", "output")
    return Problem(
        question=text_field(raw, "query", "question", "m_query"),
        language=request.language,
        answer=marked_answer(response),
        rationale=response,
        rationale_language="en",
        english_question=optional_text(raw, "query_en", "original_query"),
        origin=origin,
    )


SOURCE = Source(_rows, _parse)
