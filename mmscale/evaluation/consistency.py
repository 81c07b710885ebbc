"""Consistency over languages (Lai & Nissim 2024, section 4): CC of correct answers, IC of incorrect ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from mmscale.errors import UserError
from mmscale.evaluation.answers import Rule

Verdicts = Sequence[tuple[str, bool]]
"""(prediction, correct) of parallel questions, in order."""


def consistent_correct(a: Verdicts, b: Verdicts, rule: Rule) -> float:
    """CC(a, b) = |{i: both correct and equal}| / N."""
    both = sum(ra and rb and rule.equal(pa, pb) for (pa, ra), (pb, rb) in zip(a, b, strict=True))
    return both / len(a)


def consistent_incorrect(a: Verdicts, b: Verdicts, rule: Rule) -> float:
    """IC(a, b) = 1/2 (S/|wrong_a| + S/|wrong_b|), S = both wrong with equal predictions; 0 where nothing is wrong."""
    same = sum(not ra and not rb and rule.equal(pa, pb) for (pa, ra), (pb, rb) in zip(a, b, strict=True))
    wrong = [sum(not right for _, right in side) for side in (a, b)]
    return sum(same / count for count in wrong if count) / 2


def matrices(
    verdicts: Mapping[str, Verdicts], rule: Rule
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """(CC, IC) for every pair of languages as nested maps, symmetric; the diagonal of CC is accuracy."""
    sizes = {code: len(rows) for code, rows in verdicts.items()}
    if len(set(sizes.values())) > 1 or not all(sizes.values()):
        raise UserError(
            f"consistency needs the same questions in every language, but the rows are {sizes}: align the files"
        )
    cc: dict[str, dict[str, float]] = {code: {} for code in verdicts}
    ic: dict[str, dict[str, float]] = {code: {} for code in verdicts}
    for code, rows in verdicts.items():
        cc[code][code] = consistent_correct(rows, rows, rule)
        ic[code][code] = consistent_incorrect(rows, rows, rule)
    for a, b in combinations(verdicts, 2):
        cc[a][b] = cc[b][a] = consistent_correct(verdicts[a], verdicts[b], rule)
        ic[a][b] = ic[b][a] = consistent_incorrect(verdicts[a], verdicts[b], rule)
    return cc, ic
