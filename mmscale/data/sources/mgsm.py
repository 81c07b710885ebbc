"""MGSM (Shi et al. 2022): 250 GSM8K test problems in eleven languages.

Forms: mgsm_{l}.tsv (question, answer; Google, QAlign), test_{l}.json (mCoT) and JSONL {query, response} (QAlign).
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.data.sources.problems import numeric_gold
from mmscale.errors import BadRow
from mmscale.files import numbered_lines
from mmscale.languages import MGSM_LANGUAGES

_LAYOUTS = (
    "mgsm_{language}.tsv",
    "tsv/mgsm_{language}.tsv",
    "test_{language}.json",
    "test_{Language}.json",
    "mgsm_{language}.json",
    "mgsm_{language}.jsonl",
)


def _rows(request: Request) -> Rows:
    file = request.file(*_LAYOUTS)
    if file.suffix == ".tsv":
        for number, text in numbered_lines(file):
            if text.strip():
                yield f"{file}:{number}", text
        return
    yield from json_rows(file)


def _parse(raw: Any, request: Request, origin: str) -> Record:
    if isinstance(raw, str):
        fields = raw.split("\t")
        if len(fields) != 2 or not all(field.strip() for field in fields):
            raise BadRow(f"has {len(fields)} tab-separated fields, expected question and answer")
        question, answer = fields
    else:
        question, answer = text_field(raw, "question", "query", "m_query"), text_field(raw, "answer", "response")
    return Problem(question.strip(), request.language, numeric_gold(answer), origin=origin)


SOURCE = Source(_rows, _parse, MGSM_LANGUAGES)
