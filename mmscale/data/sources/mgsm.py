"""MGSM (Shi et al. 2022): 250 GSM8K test problems in eleven languages.

Forms: mgsm_{l}.tsv (question, answer; Google, QAlign, MindMerger), mgsm_{Language}.json, JSONL {query, response}
(MathOctopus, QAlign), test_{l}.json (mCoT), and the hub's {question, answer, answer_number, equation_solution}, in which
the test split has no `answer` and the train split has the eight exemplars.
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import numeric_gold
from mmscale.data.sources.rows import file_rows, of_language, optional_text, text_field, text_rows
from mmscale.errors import BadRow
from mmscale.languages import MGSM_LANGUAGES

_LAYOUTS = (
    "mgsm_{language}.tsv",
    "tsv/mgsm_{language}.tsv",
    "mgsm/mgsm_{language}.tsv",
    "test_{language}.json",
    "test_{Language}.json",
    "mgsm_{language}.json",
    "mgsm_{Language}.json",
    "mgsm_{language}.jsonl",
    "{language}/{split}-00000-of-00001.parquet",
    "{language}/{split}.jsonl",
    "{language}_{split}.jsonl",
)


def _rows(request: SourceRequest) -> Rows:
    file = request.file(*_LAYOUTS, of_many=True)
    rows = text_rows if file.suffix == ".tsv" else file_rows
    return of_language(rows(file), request, request.shares(*_LAYOUTS))


def parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    """A record of a row of any of the forms."""
    if isinstance(raw, str):
        fields = raw.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise BadRow(f"has {len(fields)} tab-separated fields, expected question and answer")
        return Problem(
            question=fields[0].strip(), language=request.language, answer=numeric_gold(fields[1]), origin=origin
        )
    hub = raw.get("answer_number") is not None
    answer = text_field(raw, "answer_number" if hub else "answer", "response")
    return Problem(
        question=text_field(raw, "question", "query", "m_query"),
        language=request.language,
        answer=numeric_gold(answer),
        rationale=optional_text(raw, "answer") if hub else "",
        rationale_language=request.language,
        origin=origin,
    )


SOURCE = Source(_rows, parse, MGSM_LANGUAGES)
