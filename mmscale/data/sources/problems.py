"""Shared by the sources of word problems: answers behind "####" and rows of question and answer."""

from __future__ import annotations

from mmscale.data.records import Problem
from mmscale.errors import BadRow

ANSWER_MARK = "####"


def marked_answer(rationale: str) -> str:
    """What stands behind the last "####" of a solution, without thousands commas; empty when there is no mark."""
    if ANSWER_MARK not in rationale:
        return ""
    tail = rationale.rsplit(ANSWER_MARK, 1)[1].strip().splitlines()
    return tail[0].replace(",", "").strip().rstrip(".") if tail else ""


def numeric_gold(text: str) -> str:
    """A gold number as the files write it ("70,000", "8.0") in plain form; BadRow when it is none."""
    plain = text.strip().replace(",", "")
    try:
        value = float(plain)
    except ValueError as error:
        raise BadRow(f"answer '{text}' is not a number") from error
    return str(int(value)) if value.is_integer() else plain


def solved(question: str, rationale: str, code: str, origin: str, english: str = "") -> Problem:
    """A training problem whose rationale carries the answer."""
    return Problem(question, code, marked_answer(rationale), rationale, code, english, origin)


def stated_answer(rationale: str) -> str:
    """What follows the last "The answer is" of a solution; empty when it says no such thing."""
    place = rationale.lower().rfind("the answer is")
    if place < 0:
        return ""
    tail = rationale[place + len("the answer is") :].lstrip(" :").splitlines()
    return tail[0].strip().rstrip(".") if tail else ""
