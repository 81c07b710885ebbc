r"""R2 `mcot` (Lai & Nissim 2024): `\boxed` first, else the last signed number without removing commas.

Tolerance 1e-3. Known wrong verdict, kept for parity: "70,000" is read as 0 (the last run of digits).
"""

from __future__ import annotations

import re

from mmscale.evaluation.answers.base import Rule, final_gold

_NUMBER = re.compile(r"-?\d+\.?\d*")
TOLERANCE = 1e-3


def boxed(response: str) -> str | None:
    r"""Content of the last `\boxed{…}` or `\fbox{…}`, braces balanced; None when there is none."""
    start = max(response.rfind("\\boxed"), response.rfind("\\fbox"))
    if start < 0:
        return None
    rest = response[start:]
    opening = rest.find("{")
    if opening < 0:
        return rest.split(None, 1)[1].split("$")[0] if len(rest.split(None, 1)) > 1 else None
    depth = 0
    for place, character in enumerate(rest[opening:], start=opening):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[opening + 1 : place]
    return None


def normalise(text: str) -> str:
    """MATH-style (Hendrycks et al. 2021): spacing, \\left/\\right, text, units, degrees and trailing zeros removed."""
    text = text.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "")
    text = text.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "").replace("$", "")
    text = re.sub(r"\\text\{.*?\}", "", text).replace("\\%", "").replace("%", "")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    return re.sub(r"(\d)\.0+$", r"\1", text.replace(" ", "")).rstrip(".")


def extract(response: str, language: str) -> str:
    inside = boxed(response)
    if inside is not None:
        return normalise(inside)
    numbers = _NUMBER.findall(response)
    return numbers[-1].rstrip(".") if numbers else ""


def _value(text: str) -> float | None:
    """A number, commas stripped; of text without LaTeX commands the last number in it."""
    plain = text.replace(",", "")
    candidates = [] if "\\" in plain else _NUMBER.findall(plain)
    return float(candidates[-1]) if candidates else None


def equal(prediction: str, gold: str) -> bool:
    if not prediction:
        return False
    if normalise(prediction) == normalise(gold):
        return True
    a, b = _value(prediction), _value(gold)
    return a is not None and b is not None and abs(a - b) < TOLERANCE


RULE = Rule(extract=extract, equal=equal, gold=final_gold)
"""The content of the last \\boxed, else the last signed number, as mCoT scores; faults included."""
