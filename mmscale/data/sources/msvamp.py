"""MSVAMP (Chen et al. 2023): 1000 SVAMP problems in ten languages.

Forms: test_{Language}.json (MathOctopus, QAlign) and test_{Language}.jsonl (MindMerger), JSONL {m_query, response} with the
English query, and test_{l}.json (mCoT), a JSON array {query, question, answer}. options: published = true keeps the space around
a question, as the authors' prompts do.
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import numeric_gold
from mmscale.data.sources.rows import file_rows, of_language, optional_text, raw_text_field, text_field
from mmscale.errors import UserError

LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "th", "zh")
_LAYOUTS = (
    "test_{Language}.json",
    "test_{Language}.jsonl",
    "test_{language}.json",
    "test_{language}.jsonl",
    "msvamp_{language}.jsonl",
    "msvamp/test_{Language}.jsonl",
    "{language}/test-00000-of-00001.parquet",
)


def _rows(request: SourceRequest) -> Rows:
    if not isinstance(request.options.get("published", False), bool):
        raise UserError("msvamp: options.published must be true or false")
    file = request.file(*_LAYOUTS, of_many=True)
    return of_language(file_rows(file), request, request.shares(*_LAYOUTS))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    """The answer is a float string; `query` is the English text where the row has another one."""
    question = raw_text_field(raw, "m_query", "question", "query")
    return Problem(
        question=question if request.options.get("published") else question.strip(),
        language=request.language,
        answer=numeric_gold(text_field(raw, "response", "answer")),
        english_question=optional_text(raw, "query") if "m_query" in raw or "question" in raw else "",
        origin=origin,
    )


SOURCE = Source(_rows, _parse, LANGUAGES, frozenset({"published"}))
