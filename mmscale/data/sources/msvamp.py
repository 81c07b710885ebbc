"""MSVAMP (Chen et al. 2023): 1000 SVAMP problems in ten languages, as QAlign or as mCoT publish them."""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.data.sources.problems import numeric_gold

LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "th", "zh")
_LAYOUTS = ("test_{Language}.json", "test_{language}.json", "msvamp_{language}.jsonl")


def _rows(request: Request) -> Rows:
    return json_rows(request.file(*_LAYOUTS))


def _parse(raw: Any, request: Request, origin: str) -> Record:
    """QAlign: m_query, response, and the English query; mCoT: question, answer. `response` is a float string."""
    english = str(raw.get("query", "")) if "m_query" in raw else ""
    question = text_field(raw, "m_query", "question", "query")
    answer = numeric_gold(text_field(raw, "response" if "m_query" in raw or "query" in raw else "answer"))
    return Problem(question, request.language, answer, english_question=english, origin=origin)


SOURCE = Source(_rows, _parse, LANGUAGES)
