"""Consistency over languages (Lai & Nissim 2024, section 4): CC of correct answers, IC of incorrect ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from mmscale.errors import UserError
from mmscale.evaluation.answers import Rule

Verdicts = Sequence[tuple[str, bool]]
"""(prediction, correct) of parallel questions, in order."""


def consistent_correct(a: Verdicts, b: Verdicts, rule: Rule) -> float:
    """CC(a, b) = |{i: both correct and equal}| / N."""
    both = sum(ra and rb and rule.same_answer(pa, pb) for (pa, ra), (pb, rb) in zip(a, b, strict=True))
    return both / len(a)


def consistent_incorrect(a: Verdicts, b: Verdicts, rule: Rule) -> float | None:
    """IC(a, b) = 1/2 (S/|wrong_a| + S/|wrong_b|), S = both wrong with equal predictions; None where a side has none wrong.

    No answer is wrong, and nobody's equal.
    """
    same = sum(not ra and not rb and rule.same_answer(pa, pb) for (pa, ra), (pb, rb) in zip(a, b, strict=True))
    wrong = [_wrong(side) for side in (a, b)]
    return sum(same / count for count in wrong) / 2 if all(wrong) else None


def _wrong(side: Verdicts) -> int:
    return sum(not right for _, right in side)


FEW = 10
"""Wrong answers of a language below which an IC says little: tables show a dash and the number instead."""


@dataclass(frozen=True)
class Consistency:
    """CC and IC of every pair of languages as nested maps, symmetric; the diagonal of CC is accuracy."""

    cc: dict[str, dict[str, float]]
    ic: dict[str, dict[str, float | None]]
    wrong: dict[str, int]
    """Wrong answers of each language: how much an IC rests on."""

    def to_json(self) -> dict[str, Any]:
        return {"cc": self.cc, "ic": self.ic, "wrong": self.wrong}


def consistency(verdicts: Mapping[str, Verdicts], rule: Rule) -> Consistency:
    """CC and IC of parallel questions; UserError where the languages' rows differ in number, or are none."""
    sizes = {code: len(rows) for code, rows in verdicts.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        raise UserError(
            f"consistency needs the same questions in every language, but the rows are {sizes}: align the files"
        )
    cc: dict[str, dict[str, float]] = {code: {} for code in verdicts}
    ic: dict[str, dict[str, float | None]] = {code: {} for code in verdicts}
    for a, b in [*((code, code) for code in verdicts), *combinations(verdicts, 2)]:
        cc[a][b] = cc[b][a] = consistent_correct(verdicts[a], verdicts[b], rule)
        ic[a][b] = ic[b][a] = consistent_incorrect(verdicts[a], verdicts[b], rule)
    return Consistency(cc, ic, {code: _wrong(rows) for code, rows in verdicts.items()})


def worth_showing(wrong: Mapping[str, int], a: str, b: str) -> bool:
    """Whether an IC rests on enough wrong answers to be shown; where nobody counted them it is."""
    return min(wrong.get(a, FEW), wrong.get(b, FEW)) >= FEW
