"""The equations of a rationale, which are true: sums of numbers that stand before an equals sign, and what stands behind it."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from fractions import Fraction

from mmscale.corpus.checks.base import RowScore, by_row
from mmscale.corpus.rows import CorpusRow
from mmscale.evaluation.answers.written_numbers import normalised, readings

_ROUNDED = Fraction(1, 100)
"""Share by which a result may be rounded."""
_DIGITS = r"\d+(?:[.,]\d+)*"
_NUMBER = rf"(?:[$€£¥]\s?)?{_DIGITS}%?"
_TERM = rf"\(*\s*-?{_NUMBER}\s*\)*"
_SUM = rf"{_TERM}(?:\s*[-+*/]\s*{_TERM})+"
_EQUATION = re.compile(
    rf"(?<![\w.,^=)/*+\]}}-])(?<![=/*+)x-]\s)(?<!\d\s)({_SUM})\s*=\s*(?:[$€£¥]\s?)?(-?\s?{_DIGITS}%?)(?!\s*[-+*/(^]\s*[\w(]|[\w^!]|[.,]\d)"
)
_CALCULATOR = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
_PLAIN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "∙": "*", "⋅": "*", "∗": "*"})
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def equations(text: str, language: str) -> Iterator[tuple[str, bool]]:
    """(equation, whether it is true) of each that can be worked out; those of calculator marks are written the English way."""
    for left, right in _CALCULATOR.findall(text):
        yield from _judged(left, right, "en")
    plain = normalised(text).translate(_PLAIN)
    plain = re.sub(r"(?<=\d)\s*[x]\s*(?=[$€£¥(]?\d)", "*", plain)
    for left, right in _EQUATION.findall(plain):
        yield from _judged(left, right, language)


def _judged(left: str, right: str, language: str) -> Iterator[tuple[str, bool]]:
    """Nothing where a side cannot be worked out; true where it is by the marks of one of the languages that may be meant."""
    verdicts = []
    for custom in dict.fromkeys((language, "en")):
        worked, said = _value(left, custom), _value(right, custom)
        if worked is not None and said is not None:
            verdicts += [
                _close(worked * factor, said, right)
                for factor in ((1, 100, Fraction(1, 100)) if "%" in left + right else (1,))
            ]
    if verdicts:
        yield f"{left.strip()}={right.strip()}", any(verdicts)


def _close(worked: Fraction, said: Fraction, written: str) -> bool:
    """Equal, or rounded: to the last place that is written, or by a hundredth where the result is no whole number."""
    places = len(re.sub(r"\D", "", re.split(r"[.,]", written)[-1])) if re.search(r"[.,]", written) else 0
    step = Fraction(1, 10**places)
    whole = worked.denominator == 1
    return abs(worked - said) < (step if not whole else Fraction(1, 1000)) or (
        not whole and abs(worked - said) <= _ROUNDED * abs(worked)
    )


def _value(side: str, language: str) -> Fraction | None:
    """The worth of a sum of numbers; None where it is something else."""
    numbers: list[Fraction] = []

    def taken(match: re.Match[str]) -> str:
        value = readings(match[1], language)
        numbers.append((value[0] if value else Fraction(0)) / (100 if match[2] else 1))
        missing.append(not value)
        return f"n{len(numbers) - 1}"

    missing: list[bool] = []
    named = re.sub(rf"({_DIGITS}|\.\d+)(%?)", taken, re.sub(r"[$€£¥\s]", "", side))
    if any(missing) or re.search(r"/\s+[\d.,]+\s*/", side) or re.search(r"\)\s*n|n\d+\s*\(|\)\s*\(", named):
        return None
    try:
        return _worked_out(ast.parse(named, mode="eval").body, numbers)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
        return None


def _worked_out(node: ast.expr, numbers: list[Fraction]) -> Fraction:
    if isinstance(node, ast.Name) and re.fullmatch(r"n\d+", node.id):
        return numbers[int(node.id[1:])]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_worked_out(node.operand, numbers)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_worked_out(node.left, numbers), _worked_out(node.right, numbers))
    raise ValueError("no sum of numbers")


def score(row: CorpusRow) -> RowScore | None:
    """How many equations of the rationale are false; None where it has none."""
    judged = list(equations(row.rationale, row.language))
    if not judged:
        return None
    false = [equation for equation, true in judged if not true]
    return RowScore(len(false), f"{len(false)} of {len(judged)} equations are false: {false[0]:.80}" if false else "")


CHECK = by_row(score, threshold=0)
"""Equations of the rationale that are false."""
