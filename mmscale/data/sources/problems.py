"""Shared by the sources of word problems: answers behind "####" and rows of question and answer."""

from __future__ import annotations

import re
from decimal import Decimal

from mmscale.data.records import Problem
from mmscale.errors import BadRow

ANSWER_MARK = "####"
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,4})?")
_MAX_DIGITS = 100


def marked_answer(rationale: str) -> str:
    """What stands behind the last "####" of a solution, without thousands commas; empty when there is no mark."""
    if ANSWER_MARK not in rationale:
        return ""
    tail = rationale.rsplit(ANSWER_MARK, 1)[1].strip().splitlines()
    return tail[0].replace(",", "").strip().rstrip(".") if tail else ""


def numeric_gold(text: str) -> str:
    """A gold number as the files write it ("70,000", "8.0") in plain form, every digit kept; BadRow when it is none."""
    plain = text.strip().replace(",", "")
    if not _NUMBER.fullmatch(plain):
        raise BadRow(f"answer '{text:.60}' is not a number")
    value = Decimal(plain)
    if abs(value.adjusted()) > _MAX_DIGITS:
        raise BadRow(f"answer '{text:.60}' has more than {_MAX_DIGITS} digits")
    return f"{value:.0f}" if value == value.to_integral_value() else plain


def solved(question: str, rationale: str, code: str, origin: str, english: str = "") -> Problem:
    """A training problem whose rationale carries the answer."""
    return Problem(
        question=question,
        language=code,
        answer=marked_answer(rationale),
        rationale=rationale,
        rationale_language=code,
        english_question=english,
        origin=origin,
    )


def stated_answer(rationale: str) -> str:
    """What follows the last "The answer is" of a solution; empty when it says no such thing."""
    place = rationale.lower().rfind("the answer is")
    if place < 0:
        return ""
    tail = rationale[place + len("the answer is") :].lstrip(" :").splitlines()
    return tail[0].strip().rstrip(".") if tail else ""
