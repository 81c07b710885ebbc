"""Prediction files: ours written row by row, anyone's read; always scored again from the response text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmscale.data.sources.rows import json_rows, row_language
from mmscale.errors import BadRow, LeftOut, UserError
from mmscale.evaluation.answers import Rule
from mmscale.evaluation.prediction_forms import identifier, language_of_name, parts_of
from mmscale.evaluation.statistics import wilson_interval
from mmscale.parallel.context import ParallelContext
from mmscale.progress import say
from mmscale.storage.files import append_lines, atomic_write
from mmscale.storage.reading import parse_json


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
                )
            )
        except BadRow as problem:
            raise UserError(f"{origin}: {problem}; mend or remove the row") from problem
    if not rows:
        raise UserError(f"{path} has no rows: nothing to score")
    return rows


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


class PredictionLog:
    """An append-only JSONL that survives being killed: each row once, a torn last line dropped.

    A neighbour `.fingerprint` file names the work it belongs to; rows of other work are not kept. Several ranks write a
    part each, beside the file, and the parts of a killed run are taken up whatever their number was.
    """

    def __init__(self, path: Path, fingerprint: str, context: ParallelContext) -> None:
        """All ranks open it together."""
        self.path, self.context = path, context
        self._mark = path.with_suffix(".fingerprint")
        self._part = path if context.size == 1 else path.with_suffix(f".part-{context.data_rank}.jsonl")
        context.on_first(lambda: self._take_up(fingerprint))
        self.rows = {row.origin: row for row in read_log(path)}

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.stem}.part-*.jsonl"))

    def _take_up(self, fingerprint: str) -> None:
        """Bring everything that was answered before into the one file."""
        same = self._mark.is_file() and self._mark.read_bytes() == fingerprint.encode()
        held = [file for file in (self.path, *self._parts()) if same and file.is_file()]
        self._write({row.origin: row for file in held for row in read_log(file)})
        with atomic_write(self._mark) as handle:
            handle.write(fingerprint)

    def _write(self, rows: dict[str, Prediction]) -> None:
        with atomic_write(self.path) as handle:
            handle.writelines(_line(row) for row in rows.values())
        for part in self._parts():  # what they held is in the file by now
            part.unlink()

    def append(self, rows: list[Prediction]) -> None:
        """Add rows of this rank; ranks of a tensor group have the same, and one writes."""
        if self.context.tensor_rank != 0:
            return
        append_lines(self._part, map(_line, rows))

    def collect(self, order: list[str]) -> None:
        """Every rank's rows into the one file, in an order of origins; all ranks read it."""
        self.context.barrier()

        def merge() -> None:
            found = {row.origin: row for file in (self.path, *self._parts()) for row in read_log(file)}
            self._write({origin: found[origin] for origin in order})

        self.context.on_first(merge)
        self.rows = {row.origin: row for row in read_log(self.path)}


def _line(row: Prediction) -> str:
    return json.dumps(asdict(row), ensure_ascii=False) + "\n"


def read_log(path: Path) -> list[Prediction]:
    """Rows of one of our own prediction logs; a half-written last line is left out, and so is a damaged one, which is
    said: its question counts as not answered."""
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        row = _row(line)
        if row is None:
            say(f"{path}:{number} is damaged, as a power failure leaves it: left out, its question is open again")
        else:
            rows.append(row)
    return rows


def _row(line: bytes) -> Prediction | None:
    try:
        row = Prediction(**parse_json(line.decode()))
    except (ValueError, TypeError):  # neither UTF-8 nor JSON, or of other keys
        return None
    return (
        row if all(isinstance(value, bool if key == "correct" else str) for key, value in asdict(row).items()) else None
    )
