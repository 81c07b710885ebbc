"""The MindMerger authors' `query_translation`: questions in x with English responses, JSON array or JSONL a language."""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.data.sources.problems import marked_answer

_LAYOUTS = (
    "metamath_{Language}.json",
    "metamath_{language}.json",
    "{Language}.json",
    "{language}.json",
    "{language}.jsonl",
    "train_{language}.json",
)


def _rows(request: Request) -> Rows:
    return json_rows(request.file(*_LAYOUTS))


def _parse(raw: Any, request: Request, origin: str) -> Record:
    response = text_field(raw, "response", "answer", "output")
    english = str(raw.get("query_en") or raw.get("original_query") or "")
    return Problem(
        text_field(raw, "query", "question", "m_query"),
        request.language,
        marked_answer(response),
        response,
        "en",
        english,
        origin,
    )


SOURCE = Source(_rows, _parse)
