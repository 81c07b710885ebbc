"""What a check is: how wrong a row is in one respect, and from where on that is a fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mmscale.config.corpus_check import CheckConfig
from mmscale.corpus.checks.seen import Seen
from mmscale.corpus.rows import CorpusRow


class RowScore(NamedTuple):
    """How a row did in one respect."""

    value: float
    reason: str
    """What is wrong, where the value is one of a fault; one sentence with what was seen."""


Scorer = Callable[[Sequence[CorpusRow]], list[RowScore | None]]
"""The score of each row; None of a row that the check cannot judge."""


class Finding(NamedTuple):
    """A row's fault."""

    score: float
    threshold: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class CheckSetting:
    """What a check may know beside the row."""

    config: CheckConfig
    languages: Sequence[str] = ()
    """Codes of the languages of the corpus."""
    seen: Seen | None = None
    """What was seen of all rows; None where no check asks for it."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One named respect in which rows are judged."""

    ready: Callable[[CheckSetting], Scorer]
    """What scores rows, with all that it needs; UserError where something is missing."""
    threshold: float
    below: bool = False
    """A score below the threshold is a fault, instead of one above."""
    asks: str = ""
    """The key of `check` that has to be there for it, and without which it is not run; "" where it needs none."""
    of_all_rows: bool = False
    """It needs to know what was seen of all rows."""

    def finding(self, score: RowScore | None, threshold: float | None = None) -> Finding | None:
        """The fault that a score is; None of a score within the threshold, the check's own or another."""
        limit = self.threshold if threshold is None else threshold
        if score is None or not (score.value < limit if self.below else score.value > limit):
            return None
        return Finding(round(score.value, 4), limit, score.reason)


def each(score: Callable[[CorpusRow], RowScore | None]) -> Scorer:
    """What scores rows one by one."""
    return lambda rows: [score(row) for row in rows]


def by_row(score: Callable[[CorpusRow], RowScore | None], *, threshold: float, below: bool = False) -> Check:
    """A check that needs the row alone."""
    return Check(ready=lambda setting: each(score), threshold=threshold, below=below)


def sides(row: CorpusRow) -> list[tuple[str, str, str]]:
    """(what it is, translation, its original) of question and rationale, where the row has both."""
    pairs = [("question", row.question, row.source_question), ("rationale", row.rationale, row.source_rationale)]
    return [(name, text, original) for name, text, original in pairs if original]


def worst(scores: Sequence[RowScore | None], below: bool = False) -> RowScore | None:
    """The worst of some scores; None where there is none."""
    known = [score for score in scores if score is not None]
    return (min if below else max)(known, key=lambda score: score.value, default=None)
