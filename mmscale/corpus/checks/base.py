"""What a check is: how wrong a row is in one respect, and from where on that is a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mmscale.config.data import DataConfig
from mmscale.corpus.rows import CorpusRow


class Score(NamedTuple):
    """How a row did in one respect."""

    value: float
    reason: str
    """What is wrong, where the value is one of a fault; one sentence with what was seen."""


Scorer = Callable[[CorpusRow], Score | None]
"""The score of a row; None of a row that the check cannot judge."""


class Finding(NamedTuple):
    """A row's fault."""

    score: float
    threshold: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class CheckSetting:
    """What a check may know beside the row."""

    benchmarks: Sequence[DataConfig] = ()
    """Data sets whose questions no row may hold."""
    languages: Sequence[str] = ()
    """Codes of the languages of the corpus."""
    gathered: Path = Path()
    """Folder of what was seen of all rows (corpus/gathering.py)."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Check name -> a path that it reads: of a model, of a folder."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One named respect in which rows are judged."""

    ready: Callable[[CheckSetting], Scorer]
    """What scores rows, with all that it needs; UserError where something is missing."""
    threshold: float
    below: bool = False
    """A score below the threshold is a fault, instead of one above."""
    asks: str = ""
    """What a configuration has to give it, as a key of `check`; it is run only where that is there. Empty: nothing."""
    gathers: tuple[str, ...] = ()
    """What has to be known of all rows first, as names of corpus/gathering.py."""

    def finding(self, score: Score | None, threshold: float | None = None) -> Finding | None:
        """The fault that a score is; None of a score within the threshold, the check's own or another."""
        limit = self.threshold if threshold is None else threshold
        if score is None or not (score.value < limit if self.below else score.value > limit):
            return None
        return Finding(round(score.value, 4), limit, score.reason)


def by_row(score: Scorer, *, threshold: float, below: bool = False) -> Check:
    """A check that needs the row alone."""
    return Check(ready=lambda setting: score, threshold=threshold, below=below)


def sides(row: CorpusRow) -> list[tuple[str, str, str]]:
    """(what it is, translation, its original) of question and rationale, where the row has both."""
    pairs = [("question", row.question, row.source_question), ("rationale", row.rationale, row.source_rationale)]
    return [(name, text, original) for name, text, original in pairs if original]


def worst(scores: Sequence[Score | None], below: bool = False) -> Score | None:
    """The worst of some scores; None where there is none."""
    known = [score for score in scores if score is not None]
    return (min if below else max)(known, key=lambda score: score.value, default=None)
