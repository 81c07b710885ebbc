"""The program of an answer is run (mmscale.execution), and its value compared with the gold: program of thought.

The value is what it prints; where that is nothing, what `solution()` gives, or `ans`. A value that is a number, a fraction or a
list of one is that number; of more text the last number counts, as MAmmoTH and QAlign read it: commas between digits removed,
|difference| < 1e-3.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction

from mmscale.evaluation.answers.base import Ranks, Rule, Running, final_gold
from mmscale.execution.programs import program_of
from mmscale.execution.room import room

TOLERANCE = 1e-3
NO_PROGRAM = "no program"
_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?")


def extract(response: str, language: str) -> str:
    """The value of the answer's program; empty where it has none, or failed."""
    program = program_of(response)
    return "" if program is None else (room().run([program])[0].value or "").strip()


def number(text: str) -> float:
    """The last number of a text; not a number where it has none."""
    numbers = _NUMBER.findall(_COMMA.sub("", text))
    if not numbers:
        return math.nan
    try:
        top, _, bottom = numbers[-1].partition("/")
        return float(Fraction(top.strip()) / Fraction(bottom.strip() or "1"))
    except (ValueError, ZeroDivisionError, OverflowError):
        return math.nan


def equal(prediction: str, gold: str) -> bool:
    a, b = number(prediction), number(gold)
    if math.isnan(b):  # a gold that is no number: a label, a formula
        return "".join(prediction.split()) == "".join(gold.split())
    return abs(a - b) < TOLERANCE


def ahead(responses: Sequence[str], ranks: Ranks | None) -> None:
    """Run the programs of many answers at once."""
    taken = (program_of(response) for response in responses)
    room().run([program for program in taken if program is not None], ranks)


def failure(response: str) -> str | None:
    """Why an answer has no value."""
    program = program_of(response)
    return NO_PROGRAM if program is None else room().run([program])[0].failure


RULE = Rule(
    extract=extract,
    equal=equal,
    gold=final_gold,
    running=Running(ready=lambda: room().require(), ahead=ahead, failure=failure),
)
"""The value that the answer's program gives when it is run in isolation: program of thought."""
