r"""R1 `last_number`: the rule of MathOctopus, QAlign, MindMerger and LangBridge.

A comma between two digits is removed (one pass), then the last unsigned `digits[.digits]`, else 0.0;
numeric comparison with |difference| < 1e-3. Known wrong verdicts, kept for parity: signs are lost,
decimal commas are misread, "1,2,3" is read as 12 and 3, no answer counts as 0. Native digits are read (\d and
float know them).
"""

from __future__ import annotations

import math
import re

from mmscale.evaluation.answers.base import Rule, final_gold

_COMMA = re.compile(r"(\d),(\d)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
TOLERANCE = 1e-3


def extract(response: str, language: str) -> str:
    numbers = _NUMBER.findall(_COMMA.sub(r"\1\2", response))
    return str(float(numbers[-1])) if numbers else ""


def _value(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("nan")


def equal(prediction: str, gold: str) -> bool:
    """No answer counts as 0."""
    return abs(_value(prediction or "0.0") - _value(gold)) < TOLERANCE


def _gold(text: str) -> str:
    return final_gold(text).replace(",", "")


RULE = Rule(extract=extract, equal=equal, gold=_gold, scorable=lambda text: math.isfinite(_value(_gold(text))))
"""The last unsigned number of the response, as MathOctopus, QAlign, MindMerger and LangBridge score; faults included."""
