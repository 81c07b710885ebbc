r"""MetaMathQA (Yu et al. 2023): JSON array {type, query, original_question, response}; the response ends `#### n\nThe answer is: n`.

options: types, the augmentation types to keep (GSM_AnsAug, GSM_Rephrased, GSM_SV, GSM_FOBAR, MATH_…).
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.data.sources.problems import marked_answer

_MARK = "The answer is:"


def _rows(request: Request) -> Rows:
    wanted = request.options.get("types")
    for origin, row in json_rows(request.file("MetaMathQA-395K.json", "MetaMathQA.json", "train.json")):
        if wanted is None or (isinstance(row, dict) and row.get("type") in wanted):
            yield origin, row


def _parse(raw: Any, request: Request, origin: str) -> Record:
    response = text_field(raw, "response")
    answer = response.rsplit(_MARK, 1)[1].strip() if _MARK in response else marked_answer(response)
    return Problem(text_field(raw, "query"), "en", answer, response, "en", "", origin)


SOURCE = Source(_rows, _parse, ("en",), frozenset({"types"}))
