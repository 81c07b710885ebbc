r"""`default`: the answer as a careful reader of the language takes it; docs/answers.md is its specification.

`answer_place` says where in a response the answer stands, `written_numbers` how numbers are read. Golds are numbers
written the English way; |difference| < 1e-3.
"""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

from mmscale.evaluation.answers.answer_place import answer
from mmscale.evaluation.answers.base import Rule, final_gold
from mmscale.evaluation.answers.written_numbers import normalised, numbers

TOLERANCE = Fraction(1, 1000)
_CONTEXT = Context(prec=2000)
"""Digits enough for every number that is read."""


def _text(value: Fraction) -> str:
    """A decimal number where it is one of at most twenty places, else a fraction in lowest terms."""
    scaled = value * 10**20
    if value.denominator == 1 or scaled.denominator != 1:
        return str(value)
    return format(Decimal(scaled.numerator).scaleb(-20).normalize(_CONTEXT), "f")


def readings(response: str, language: str) -> list[str]:
    return [_text(value) for value in answer(response, language)]


def extract(response: str, language: str) -> str:
    return next(iter(readings(response, language)), "")


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "").strip().rstrip("%").lstrip("$"))
    except (ValueError, ZeroDivisionError):
        return None


def equal(prediction: str, gold: str) -> bool:
    a, b = _number(prediction), _number(gold)
    if a is None or b is None:
        return bool(prediction) and prediction.strip() == gold.strip()
    return abs(a - b) < TOLERANCE


def gold(text: str) -> str:
    """A gold field as a number in ASCII digits; as it is where it has none."""
    candidates = numbers(normalised(final_gold(text)), "en")
    return _text(candidates[-1].value) if candidates else text.strip()


def _scorable(text: str) -> bool:
    return _number(gold(text)) is not None


RULE = Rule(extract=extract, equal=equal, gold=gold, readings=readings, scorable=_scorable)
"""The answer as a careful reader of the language takes it, numbers in words and native digits too."""
