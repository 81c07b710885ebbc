"""Checks that compare a row with all others: lengths that are unusual for its language, texts that stand there twice."""

from __future__ import annotations

from collections.abc import Callable

from mmscale.corpus.checks.base import Check, CheckSetting, RowScore, Scorer, each, worst
from mmscale.corpus.checks.seen import NEAR, Seen, ratios
from mmscale.corpus.rows import CorpusRow

_LEAST_TEXTS = 30
"""Texts of a pair of languages from which on it is known what is usual."""
_LEAST_SPREAD = 0.08
"""Standard deviation of the logarithm of a ratio that translations of long texts have at least."""
_LETTERS = 3.0
"""Characters by which a translation is longer or shorter by chance, which tell in short texts."""


def _seen(setting: CheckSetting) -> Seen:
    assert setting.seen is not None, "what checks of all rows need is gathered before them"
    return setting.seen


def _unusual(seen: Seen, row: CorpusRow) -> RowScore | None:
    originals = {"question": row.source_question or "", "rationale": row.source_rationale or ""}
    scores = []
    for name, ratio in ratios(row):
        texts, middle, deviation = seen.centres.get(name, (0, 0.0, 0.0))
        part = name.rsplit("-", 1)[1]
        if texts >= _LEAST_TEXTS:
            spread = max(1.4826 * deviation, _LEAST_SPREAD) + _LETTERS / max(1, len(originals[part]))
            word = "long" if ratio > middle else "short"
            scores.append(RowScore(abs(ratio - middle) / spread, f"the {part} is unusually {word} for its original"))
    return worst(scores)


def _by_length(setting: CheckSetting) -> Scorer:
    seen = _seen(setting)
    return each(lambda row: _unusual(seen, row))


LENGTH_RATIO = Check(ready=_by_length, threshold=6.0, of_all_rows=True)
"""Question or rationale is unusually long or short, by standard deviations of the language's own ratios."""


def _repeats(name: str, told: Callable[[str], str]) -> Callable[[CheckSetting], Scorer]:
    def ready(setting: CheckSetting) -> Scorer:
        seen = _seen(setting)

        def score(row: CorpusRow) -> RowScore:
            earlier = seen.repeats[name].of(row.id)
            return RowScore(0, "") if earlier is None else RowScore(1, told(seen.place(earlier)))

        return each(score)

    return ready


DUPLICATE = Check(ready=_repeats("duplicate", lambda place: f"says what {place} says"), threshold=0, of_all_rows=True)
"""Question, rationale and answer are those of an earlier row of the language."""
NEAR_DUPLICATE = Check(
    ready=_repeats("near_duplicate", lambda place: f"says nearly what {place} says ({NEAR:.0%} of character 5-grams)"),
    threshold=0,
    of_all_rows=True,
)
"""Question and rationale are nearly those of an earlier row of the language, with the same numbers."""
MERGED_QUESTIONS = Check(
    ready=_repeats("merged_questions", lambda place: f"{place} is another problem with the same translation"),
    threshold=0,
    of_all_rows=True,
)
"""Several problems were translated into the same question."""
