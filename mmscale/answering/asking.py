"""Questions without gold answers: a stream of answers, kept as they come, each question answered once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmscale.answering.local import LoadedModels
from mmscale.config.evaluation import GenerationConfig
from mmscale.data.records import Problem
from mmscale.decoding.analysis import Analyst, summary
from mmscale.decoding.generate import Generation, PromptDecoder
from mmscale.decoding.speculation import DraftLengthController
from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.progress import bar
from mmscale.storage.reading import parse_json
from mmscale.storage.row_log import RowForm, RowLog

Row = dict[str, Any]
"""number, question, language, response, log_probability, tokens, finished, and with analysis what was seen of each token."""


@dataclass
class Asking:
    """Questions to a solver."""

    solver: LoadedModels
    questions: Sequence[str]
    language: str
    config: GenerationConfig
    analysis: bool = False

    def __post_init__(self) -> None:
        self.config = self.config.model_copy(update={"stop": (*self.config.stop, *self.solver.template.stop)})
        self.solver.tell_of_unused_chat_format()
        self.draft_length = DraftLengthController(self.solver.ensemble.device, self.solver.draft_tokens)
        self.analyst = Analyst(self.solver.ensemble, self.solver.end.decode) if self.analysis else None

    @property
    def key(self) -> str:
        """Names the model and the settings, so that answers of others are never mixed in."""
        return f"{self.solver.fingerprint} {self.language} {self.config.model_dump_json()} {self.analysis}"

    def rows(self, context: ParallelContext, done: frozenset[int] = frozenset()) -> Iterator[Row]:
        """Answers of this rank's share as they finish, those of `done` left out. UserError when one leaves no room."""
        records = [
            Problem(question=text, language=self.language, origin=f"question {i}")
            for i, text in enumerate(self.questions, start=1)
        ]
        prompts = [tokenize(records, with_target=False) for tokenize in self.solver.tokenizers]
        others = {i for i in range(len(records)) if i % context.data_size != context.data_rank}
        end = self.solver.end.with_texts(self.config.stop)
        solver, skip = self.solver, frozenset(done | others)
        decoder = PromptDecoder(solver.ensemble, end, solver.context_length, self.draft_length, self.analyst)
        with bar(f"{solver.title}: answering", len(records) - len(skip)) as progress:
            for one in decoder.stream(prompts, self.config, skip):
                progress.advance()
                yield self._row(one)

    def _row(self, one: Generation) -> Row:
        row = {
            "number": one.prompt,
            "question": self.questions[one.prompt],
            "language": self.language,
            "response": one.text.strip(),
            "log_probability": sum(one.log_probabilities),
            "tokens": len(one.token_ids),
            "finished": one.finished,
        }
        if self.analyst is not None:
            seen = self.analyst.tokens.pop(one.prompt, [])
            row["analysis"] = {**summary(seen), "of_tokens": [token.to_json() for token in seen]}
        return row


class AnswerFile:
    """A JSONL of answers that survives being killed; whoever fills it holds `folder_of` alone."""

    def __init__(self, path: Path, asking: Asking, context: ParallelContext) -> None:
        """UserError when the file holds answers of another model, setting or list of questions."""
        self.asking, self.context, self.folder = asking, context, self.folder_of(path)
        form = RowForm(key=lambda row: int(row["number"]), to_json=dict, parse=self._row)
        self._log = RowLog[int, Row](path, form, context, self.folder / "*.jsonl", work=None, alone=False)

    @staticmethod
    def folder_of(path: Path) -> Path:
        """Where the parts lie until all is answered."""
        return path.with_name(f"{path.name}.parts")

    def _row(self, line: bytes, origin: str) -> Row:
        try:
            row = parse_json(line.decode())
            number, key, question = int(row["number"]), row["made_by"], row["question"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{origin}: not an answer of mmscale generate: choose another --output, or remove the file"
            ) from error
        asked = self.asking.questions
        if key != self.asking.key or not 0 <= number < len(asked) or asked[number] != question:
            raise UserError(
                f"{origin}: the answer is of another model, setting or question than this command's: choose "
                f"another --output, or remove the file"
            )
        return dict(row)

    def fill(self) -> list[Row]:
        """Answer what is open, keep every answer at once; all rows in order, on every rank."""
        for row in self.asking.rows(self.context, frozenset(self._log.rows)):
            self._log.append([{**row, "made_by": self.asking.key}])
        self._log.collect(range(len(self.asking.questions)))
        self.context.on_first(lambda: shutil.rmtree(self.folder))
        return list(self._log.rows.values())
