"""Solutions that got into the question: an equation with its result, a calculator mark, the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmscale.corpus.checks.base import RowScore, by_row
from mmscale.corpus.checks.customs import Said
from mmscale.corpus.checks.equations import equations
from mmscale.corpus.checks.numbers import differences, said_numbers
from mmscale.corpus.rows import CorpusRow
from mmscale.data.filters import EQUATION
from mmscale.evaluation.answers.locale_aware import RULE
from mmscale.evaluation.answers.words import IS

_STATED = re.compile("|".join(f"(?:{phrase})" for phrase in IS.values()) + "|####", re.IGNORECASE)


def _signs(text: str, language: str) -> int:
    """Equations with a result, and statements of an answer."""
    worked_out = len(EQUATION.findall(text)) + len(list(equations(text, language)))
    return worked_out + len(_STATED.findall(text))


def _says(some: Sequence[Said], gold: str) -> bool:
    return any(RULE.equal(str(value), gold) for one in some for value in one.readings)


def score(row: CorpusRow) -> RowScore | None:
    """How many more signs of a solution the question holds than its original does."""
    language = row.source_language or "en"
    original = row.source_question or ""
    more = _signs(row.question, row.language) - _signs(original, language)
    if more > 0:
        return RowScore(more, "the question holds a part of the solution")
    if original and row.answer and RULE.scorable(row.answer):
        _, new = differences(row.question, row.language, original, language)
        gold = RULE.gold(row.answer)
        asked = said_numbers(original, language, row.question)
        if _says(new, gold) and not _says(asked, gold):
            return RowScore(1, f"the question says the answer, {row.answer:.40}")
    return RowScore(0, "")


CHECK = by_row(score, threshold=0)
"""The question holds a part of the solution or the answer, and its original does not."""
