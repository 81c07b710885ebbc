r"""MetaMathQA (Yu et al. 2023): JSON array {type, query, original_question, response}; the response ends `#### n\nThe answer is: n`.

options: types, the augmentation types to keep (GSM_AnsAug, GSM_Rephrased, GSM_SV, GSM_FOBAR, MATH_…).
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import marked_answer
from mmscale.data.sources.rows import file_rows, text_field
from mmscale.errors import LeftOut, UserError

_MARK = "The answer is:"


def _rows(request: SourceRequest) -> Rows:
    wanted = request.options.get("types")
    if wanted is not None and not (isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)):
        raise UserError("metamath: options.types must be a list of names, for example [GSM_AnsAug]")
    return file_rows(request.file("MetaMathQA-395K.json", "MetaMathQA.json", "train.json"))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    wanted = request.options.get("types")
    if wanted is not None and (kind := text_field(raw, "type")) not in wanted:
        raise LeftOut(f"type {kind:.40}")
    response = text_field(raw, "response")
    answer = response.rsplit(_MARK, 1)[1].strip() if _MARK in response else marked_answer(response)
    return Problem(
        question=text_field(raw, "query"),
        language="en",
        answer=answer,
        rationale=response,
        rationale_language="en",
        english_question="",
        origin=origin,
    )


SOURCE = Source(_rows, _parse, ("en",), frozenset({"types"}))
