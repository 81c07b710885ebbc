"""Putting a task to a model: prompts in, scored prediction files out, from wherever the files stand."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mmscale.config.evaluation import GenerationConfig, TaskConfig
from mmscale.data.loading import DataAccount, load_records, wanted_languages
from mmscale.data.prompts import Template, require_readable, template
from mmscale.data.records import Entailment, MultipleChoice, Problem, Record, question_text, record_language
from mmscale.data.segments import ExampleTokenizer
from mmscale.decoding.draft_length import DraftLengthController
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.generate import batches, generate
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.errors import Interrupted, UserError
from mmscale.evaluation.answers import rule
from mmscale.evaluation.predictions import Prediction, PredictionLog
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import Bar, bar, say


@dataclass(frozen=True)
class Solver:
    """Anything that answers records: one model, or three that make a proxy-tuned one."""

    title: str
    fingerprint: str
    """Names the weights and prompts, so that rows of another model are never mixed in."""
    tokenizers: Sequence[ExampleTokenizer]
    ensemble: Ensemble
    end: StopCriteria
    context_length: int
    draft_tokens: int | None = 1
    """Tokens that a round of speculative decoding tries; 1 is plain decoding, None measures what is fastest."""

    @property
    def template(self) -> Template:
        return self.tokenizers[0].template

    def asked_by(self, chosen: Template) -> Solver:
        """The same, its questions put by another template."""
        return replace(self, tokenizers=[tokenize.asking_by(chosen) for tokenize in self.tokenizers])


class LazySolver:
    """A solver that is loaded when something is to be answered: a run that only counts what is there needs no weights."""

    def __init__(self, title: str, fingerprint: str, load: Callable[[], Solver], prompt: str) -> None:
        """`prompt` names the template by which it asks."""
        self.title, self.fingerprint, self._load, self.prompt = title, fingerprint, load, prompt

    def asked_by(self, prompt: str) -> LazySolver:
        """The same, its questions put by another template; answers by different ones are never mixed."""
        chosen, content = template(prompt), f"{self.fingerprint} asked by {prompt}"
        fingerprint = hashlib.sha256(content.encode()).hexdigest()[:16]
        return LazySolver(self.title, fingerprint, lambda: self.loaded.asked_by(chosen), prompt)

    @functools.cached_property
    def loaded(self) -> Solver:
        return self._load()


def gold(record: Record) -> str:
    """The gold answer of a record."""
    if isinstance(record, Problem):
        return record.answer
    if isinstance(record, MultipleChoice):
        return record.answer
    if isinstance(record, Entailment):
        return record.label
    return record.target


def answer(
    solver: Solver,
    records: Sequence[Record],
    config: GenerationConfig,
    done: Container[str] = (),
    context: ParallelContext | None = None,
) -> Iterator[list[Prediction]]:
    """Answered rows, not yet judged, a batch at a time; cut at the template's stop texts as well.

    Batches are those of all records, whatever is done (by origin) and however many data-parallel ranks take turns at
    the rest: an answer may depend on its batch by a rounding, and so depends on nothing else.
    """
    if not records:
        return
    config = config.model_copy(update={"stop": (*config.stop, *solver.template.stop)})
    prompts = [tokenize(records, with_target=False) for tokenize in solver.tokenizers]
    open_ones = [b for b in batches(prompts[0], config.batch_size) if any(records[i].origin not in done for i in b)]
    mine = open_ones if context is None else open_ones[context.data_rank :: context.data_size]
    end = solver.end.with_texts(config.stop)
    draft_length = DraftLengthController(solver.ensemble.device, solver.draft_tokens)
    for batch in generate(solver.ensemble, prompts, config, end, solver.context_length, mine, draft_length):
        chosen = [(records[found.prompt], found.text) for found in batch]
        yield [Prediction(question_text(r), text, gold(r), record_language(r), r.origin) for r, text in chosen]


def require_scorable(records: Sequence[Record], rule_name: str) -> None:
    """UserError naming the first record whose gold answer a rule cannot compare anything with."""
    for record in records:
        if not rule(rule_name).scorable(gold(record)):
            raise UserError(
                f"{record.origin}: rule {rule_name} cannot compare anything with the gold answer '{gold(record)[-40:]}': choose another rule for "
                f"the task (exact compares texts), or leave the row out"
            )


def judge(row: Prediction, rule_name: str) -> Prediction:
    """The row with its prediction and verdict by a rule."""
    prediction, correct = rule(rule_name).correct(row.response, row.answer, row.language)
    return replace(row, prediction=prediction, correct=correct, rule=rule_name)


def solve(
    solver: LazySolver,
    records: Sequence[Record],
    config: GenerationConfig,
    log: PredictionLog,
    rule_name: str,
    interruption: Interruption,
    progress: Bar,
) -> list[Prediction]:
    """Answer the records the log does not hold yet; all rows, on every rank, in the order of `records`.

    Rows are judged when they are written, for whoever reads the file, and again here, by the rule asked for now.
    Raises Interrupted, on all ranks, when a signal or a time limit ends it early; what was answered is kept.
    """
    done, answered = frozenset(log.rows), len(log.rows)
    if not done.issuperset(record.origin for record in records):  # all ranks know of the same rows
        for batch in answer(solver.loaded, records, config, done, log.context):
            new = [judge(row, rule_name) for row in batch if row.origin not in done]
            log.append(new)
            answered = min(len(records), answered + len(new) * log.context.data_size)  # other ranks answer as many
            progress.advance(0, note=f"{log.path.stem}: {answered} of {len(records)} answered")
            if interruption.noted:
                break
    reason = interruption.reason()
    if reason is not None:
        say(f"{solver.title}: stopped by {reason}; the same command goes on from there")
        raise Interrupted(reason, interruption.signal)
    log.collect([record.origin for record in records])
    return [judge(log.rows[record.origin], rule_name) for record in records]


def evaluate_task(
    solver: LazySolver,
    name: str,
    task: TaskConfig,
    run_languages: Sequence[str],
    folder: Path,
    context: ParallelContext,
    interruption: Interruption,
) -> tuple[dict[str, list[Prediction]], list[DataAccount]]:
    """Judged predictions of every language of a task, one file per language under folder/name; data-parallel ranks share
    the prompts, and all get all rows."""
    languages = wanted_languages(task.data, run_languages)
    rows: dict[str, list[Prediction]] = {}
    accounts = []
    if task.prompt is not None:
        solver = solver.asked_by(task.prompt)
    what = json.dumps([solver.fingerprint, task.generation.model_dump(mode="json")], sort_keys=True)
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    folder = folder / name
    with context.alone_in(folder), bar(f"{solver.title} on {name}", len(languages)) as progress:
        for code in languages:
            records, account = load_records(task.data, run_languages, only=code)
            if not all(gold(record) for record in records):
                raise UserError(
                    f"task {name} ({code}): some rows of {task.data.source} have no gold answer; choose a scorable split"
                )
            require_readable(template(solver.prompt), records)
            require_scorable(records, task.rule)
            accounts.append(account)
            log = PredictionLog(folder / f"{code}.jsonl", digest, context)
            rows[code] = solve(solver, records, task.generation, log, task.rule, interruption, progress)
            progress.advance(note=code)
    return rows, accounts
