"""Prediction files: ours written row by row, anyone's read; always scored again from the response text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmscale.data.sources.rows import json_rows, row_language
from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.evaluation.answers import Rule
from mmscale.evaluation.options import Option, likeliest, option_of
from mmscale.evaluation.prediction_forms import identifier, language_of_name, parts_of
from mmscale.evaluation.statistics import wilson_interval
from mmscale.storage.reading import parse_json
from mmscale.storage.row_log import RowForm, RowLog, WorkIdentity, whole_rows

if TYPE_CHECKING:
    from mmscale.parallel.context import ParallelContext


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One answered question."""

    question: str
    response: str
    answer: str
    """Gold."""
    language: str = "en"
    origin: str = ""
    prediction: str = ""
    correct: bool = False
    rule: str = ""
    """That made `prediction` and `correct`."""
    identifier: str = ""
    """Names the problem, the same in every language and model, where the file has one."""
    options: tuple[Option, ...] = ()
    """Where the likeliest of them is the answer: how likely each is, and so what any length normalization makes of it."""


@dataclass(frozen=True)
class Score:
    """Accuracy of some rows with its Wilson interval."""

    n: int
    correct: int
    accuracy: float
    interval: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score(verdicts: list[bool], confidence: float = 0.95) -> Score:
    n, correct = len(verdicts), sum(verdicts)
    return Score(n, correct, correct / n if n else 0.0, wilson_interval(correct, n, confidence))


def read(path: Path, language: str | None = None) -> list[Prediction]:
    """Rows of a prediction file in any form of prediction_forms.

    `language` is that of rows that do not name theirs; without it the file's name decides, and then English.
    UserError names the first row that cannot be read.
    """
    given = language or language_of_name(path) or "en"
    rows = []
    for origin, row in json_rows(path):
        if isinstance(row, LeftOut):
            continue
        try:
            if isinstance(row, BadRow):
                raise row
            question, response, answer = parts_of(row)
            rows.append(
                Prediction(
                    question=question,
                    response=response,
                    answer=answer,
                    language=row_language(row) or given,
                    origin=str(row.get("origin", origin)),
                    identifier=identifier(row),
                    options=tuple(option_of(one) for one in _listed(row.get("options"))),
                )
            )
        except BadRow as problem:
            raise UserError(f"{origin}: {problem}; mend or remove the row") from problem
    if not rows:
        raise UserError(f"{path} has no rows: nothing to score")
    return rows


def _listed(value: Any) -> list[Any]:
    """The options of a row of ours; none of one that has something else by that name."""
    return value if isinstance(value, list) and value and isinstance(value[0], dict) and "tokens" in value[0] else []


def decided(rows: Sequence[Prediction], normalization: str) -> list[Prediction]:
    """The rows with the likeliest option as their response, where they have options."""
    return [replace(row, response=likeliest(row.options, normalization)) if row.options else row for row in rows]


def require_scorable(rows: Sequence[Prediction], rule: Rule) -> None:
    """UserError naming the first row whose gold answer a rule cannot compare anything with."""
    bad = [row for row in rows if not rule.scorable(row.answer)]
    if bad:
        raise UserError(
            f"{bad[0].origin}: the gold answer '{bad[0].answer[-40:]}' is none that this rule can compare ({len(bad)} of {len(rows)} "
            f"rows): mend or remove such rows, or choose another rule (exact compares texts)"
        )


def verdict(row: Prediction, rule: Rule) -> tuple[str, bool]:
    """(prediction, correct) of a row by a rule, from its response text."""
    return rule.correct(row.response, row.answer, row.language)


def failures(rows: Sequence[Prediction], rule: Rule) -> dict[str, int]:
    """name -> how many rows a rule that runs programs found no value in, the most frequent first."""
    assert rule.running is not None
    names = Counter(name for row in rows if (name := rule.running.failure(row.response)) is not None)
    return dict(names.most_common())


def read_log(path: Path) -> list[Prediction]:
    """Rows of one of our own prediction logs, damaged ones left out."""
    return list(whole_rows(path, _row, "left out, its question is open again"))


def _row(line: bytes, _: str) -> Prediction | None:
    try:
        values = parse_json(line.decode())
        options = tuple(option_of(one) for one in values.pop("options", ()))
        row = Prediction(**values)
    except (ValueError, TypeError, AttributeError, BadRow):  # neither UTF-8 nor JSON, or of other keys
        return None
    whole = all(isinstance(value, bool if key == "correct" else str) for key, value in values.items())
    return replace(row, options=options) if whole else None


def _to_json(row: Prediction) -> dict[str, Any]:
    values = asdict(row)
    return values if row.options else {key: value for key, value in values.items() if key != "options"}


_FORM = RowForm(key=lambda row: row.origin, to_json=_to_json, parse=_row)


class PredictionLog(RowLog[str, Prediction]):
    """The answered questions of a task in one language; those of another work are not kept."""

    def __init__(
        self,
        path: Path,
        fingerprint: str,
        context: ParallelContext,
        models: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """UserError when other `models` (Answerer.models) gave its rows."""
        self.context = context
        parts = path.with_suffix(".part-*.jsonl")
        super().__init__(path, _FORM, context, parts, work=WorkIdentity(fingerprint, models or {}), alone=True)
