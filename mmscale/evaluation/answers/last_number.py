r"""R1 `last_number`: the rule of MathOctopus, QAlign, MindMerger and LangBridge.

A comma between two digits is removed (one pass), then the last unsigned `digits[.digits]`, else 0.0;
numeric comparison with |difference| < 1e-3. Known wrong verdicts, kept for parity: signs are lost,
decimal commas and native digits are misread, "1,234,5" style runs are joined, no answer counts as 0.
"""

from __future__ import annotations

import re

from mmscale.evaluation.answers.base import Rule

_COMMA = re.compile(r"([0-9]),([0-9])")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")
TOLERANCE = 1e-3


def extract(response: str, language: str) -> str:
    numbers = _NUMBER.findall(_COMMA.sub(r"\1\2", response))
    return str(float(numbers[-1])) if numbers else "0.0"


def _value(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return float("nan")


def equal(prediction: str, gold: str) -> bool:
    return abs(_value(prediction) - _value(gold)) < TOLERANCE


RULE = Rule(extract, equal, gold=lambda text: text.replace(",", "").strip())
