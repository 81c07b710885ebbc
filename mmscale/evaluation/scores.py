"""Judged rows to scores: accuracy a language with intervals, gains, consistency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmscale.evaluation.alignment import same_gold
from mmscale.evaluation.answers import Rule, rule
from mmscale.evaluation.consistency import consistency
from mmscale.evaluation.options import by_normalization
from mmscale.evaluation.predictions import Prediction, failures, score
from mmscale.evaluation.statistics import paired_bootstrap

LanguageRows = Mapping[str, Sequence[Prediction]]
"""language -> judged rows"""


def language_scores(rows: Sequence[Prediction], chosen: Rule, confidence: float = 0.95) -> dict[str, Any]:
    """Accuracy of judged rows; where the rule runs programs also how many failed, by name; where options were weighed what
    each length normalization makes of them."""
    entry = score([row.correct for row in rows], confidence).to_json()
    if chosen.running is not None:
        entry["failures"] = failures(rows, chosen)
    if rows and all(row.options for row in rows):
        entry["by_normalization"] = by_normalization([row.options for row in rows], [row.answer for row in rows])
    return entry


def task_scores(
    rows: LanguageRows, rule_name: str, confidence: float, before: LanguageRows | None = None
) -> dict[str, Any]:
    """Scores of one model on one task; `before` are the rows of the model it is compared with."""
    languages: dict[str, Any] = {}
    for code, predictions in rows.items():
        verdicts = [row.correct for row in predictions]
        languages[code] = language_scores(predictions, rule(rule_name), confidence)
        if before and code in before:
            gain = paired_bootstrap([row.correct for row in before[code]], verdicts, confidence)
            languages[code]["gain"] = {
                "difference": gain.difference,
                "interval": gain.interval,
                "p_value": gain.p_value,
            }
    others = [row.correct for code, predictions in rows.items() if code != "en" for row in predictions]
    entry: dict[str, Any] = {
        "rule": rule_name,
        "languages": languages,
        "non_english": score(others, confidence).to_json(),
    }
    if len(rows) > 1 and len({len(predictions) for predictions in rows.values()}) == 1:
        if _parallel(rows, rule_name):
            verdicts_of = {code: [(row.prediction, row.correct) for row in answered] for code, answered in rows.items()}
            entry |= consistency(verdicts_of, rule(rule_name)).to_json()
        else:
            entry["consistency_left_out"] = "gold answers differ between languages: the problems are not parallel"
    return entry


def _parallel(rows: LanguageRows, rule_name: str) -> bool:
    """Whether the languages' rows have the same golds; labels of options that are shuffled by language do not."""
    first, *others = rows.values()
    chosen = rule(rule_name)
    return all(same_gold(a.answer, b.answer, chosen) for other in others for a, b in zip(first, other, strict=True))
