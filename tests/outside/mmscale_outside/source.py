"""Riddles: {language}.jsonl with rows {riddle, solution}; a row without a solution is unreadable."""

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import file_rows, text_field


def _rows(request: SourceRequest) -> Rows:
    return file_rows(request.file("{language}.jsonl"))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    riddle, solution = text_field(raw, "riddle"), text_field(raw, "solution")
    return Problem(
        question=riddle, language=request.language, answer=solution, rationale=f"It is {solution}", origin=origin
    )


SOURCE = Source(_rows, _parse)
