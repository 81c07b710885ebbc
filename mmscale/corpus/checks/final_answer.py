"""The final answer of a rationale, which is the gold one by our own rule (evaluation/answers, `default`)."""

from __future__ import annotations

from mmscale.corpus.checks.base import RowScore, by_row
from mmscale.corpus.rows import CorpusRow
from mmscale.evaluation.answers.locale_aware import RULE


def score(row: CorpusRow) -> RowScore | None:
    """1 where the rationale ends in another answer than the gold one, or in none; None without a gold number."""
    if not row.answer or not row.rationale or not RULE.scorable(row.answer):
        return None
    prediction, right = RULE.correct(row.rationale, row.answer, row.language)
    if right:
        return RowScore(0, "")
    said = f"says {prediction:.40}" if prediction else "says no answer"
    return RowScore(1, f"the rationale {said}, the gold answer is {row.answer:.40}")


CHECK = by_row(score, threshold=0)
"""The rationale's final answer is not the gold one."""
