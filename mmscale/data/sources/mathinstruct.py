"""MathInstruct (Yue et al. 2023): JSON array {source, instruction, output}; some outputs are programs.

options: programs = keep | only | none (rows whose output is Python code).
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import marked_answer, stated_answer
from mmscale.data.sources.rows import file_rows, text_field
from mmscale.errors import LeftOut, UserError


def is_program(output: str) -> bool:
    """Whether an output is a program of thought: it prints its answer."""
    return "print(" in output and ("=" in output or "import " in output)


def _rows(request: SourceRequest) -> Rows:
    programs = request.options.get("programs", "keep")
    if programs not in ("keep", "only", "none"):
        raise UserError("mathinstruct: options.programs must be keep, only or none")
    return file_rows(request.file("MathInstruct.json", "train.json", "MathInstruct.jsonl"))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    output = text_field(raw, "output")
    programs, program = request.options.get("programs", "keep"), is_program(output)
    if programs != "keep" and (programs == "only") != program:
        raise LeftOut("a program" if program else "no program")
    return Problem(
        question=text_field(raw, "instruction"),
        language="en",
        answer=marked_answer(output) or stated_answer(output),
        rationale=output,
        rationale_language="en",
        english_question="",
        origin=origin,
    )


SOURCE = Source(_rows, _parse, ("en",), frozenset({"programs"}))
