"""Putting a task to what answers: prompts in, scored prediction files out, from wherever the files stand."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mmscale.answering.base import Answer, Answerer
from mmscale.config.evaluation import TaskConfig
from mmscale.data.loading import DataAccount, load_records, wanted_languages
from mmscale.data.prompts import reads_translation, require_readable, template, untranslated
from mmscale.data.records import Record
from mmscale.errors import Interrupted, UserError
from mmscale.evaluation.answers import rule
from mmscale.evaluation.options import require_options, weighed
from mmscale.evaluation.predictions import Prediction, PredictionLog, decided
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import Bar, bar, say
from mmscale.storage.files import digest
from mmscale.translation.questions import Translations

LOG_LIKELIHOOD = "log_likelihood"
_VERDICTS = 1 << 16
"""Judged answers that are remembered: rows are judged when they are written and when they are scored."""


def require_scorable(records: Sequence[Record], rule_name: str) -> None:
    """UserError naming the first record whose gold answer a rule cannot compare anything with."""
    for record in records:
        if not rule(rule_name).scorable(record.gold):
            raise UserError(
                f"{record.origin}: rule {rule_name} cannot compare anything with the gold answer '{record.gold[-40:]}': choose another rule for "
                f"the task (exact compares texts), or leave the row out"
            )


def require_ready(rule_name: str, context: ParallelContext) -> None:
    """UserError, on every rank, where a rule runs programs and one of the ranks cannot."""
    running, problem = rule(rule_name).running, None
    if running is None:
        return
    try:
        running.ready()
    except UserError as error:
        problem = str(error)
    context.agree(problem)


def unjudged(one: Answer) -> Prediction:
    """An answer as a row of a prediction file."""
    record = one.record
    return Prediction(
        question=record.text, response=one.text, answer=record.gold, language=record.language, origin=record.origin
    )


def judge(rows: Sequence[Prediction], rule_name: str, ranks: ParallelContext | None = None) -> list[Prediction]:
    """The rows with their predictions and verdicts by a rule; `ranks` that judge the same rows share the work."""
    rule(rule_name).ahead([row.response for row in rows], ranks)
    verdicts = [_verdict(rule_name, row.response, row.answer, row.language) for row in rows]
    return [
        replace(row, prediction=prediction, correct=correct, rule=rule_name)
        for row, (prediction, correct) in zip(rows, verdicts, strict=True)
    ]


@functools.lru_cache(_VERDICTS)
def _verdict(rule_name: str, response: str, answer: str, language: str) -> tuple[str, bool]:
    return rule(rule_name).correct(response, answer, language)


def accuracy(answerer: Answerer, task: TaskConfig, languages: Sequence[str], context: ParallelContext) -> float:
    """Share of a task's rows that are answered rightly, all languages together; no answer is written. All ranks ask the same."""
    records, _ = load_records(task.data, languages)
    require_scorable(records, task.rule)
    asked = answerer if task.prompt is None else answerer.asked_by(task.prompt)
    _require_choosable(records, task)
    translations = translations_of(task, asked.prompt, asked.title, context)
    if translations is not None:
        records = translations.of(records, asked.title)
    answered = [row for batch in _answered(asked, records, task) for row in batch]
    return sum(row.correct for row in judge(answered, task.rule)) / len(answered)


def _require_choosable(records: Sequence[Record], task: TaskConfig) -> None:
    """UserError naming the first record without options where one of them is to be chosen."""
    if task.scoring == LOG_LIKELIHOOD:
        require_options(records, f"scoring={LOG_LIKELIHOOD}")


def translations_of(
    task: TaskConfig, prompt: str, title: str, context: ParallelContext, interruption: Interruption | None = None
) -> Translations | None:
    """What translates a task's questions where a prompt shows translations; UserError where the task names no translator."""
    if not reads_translation(prompt):
        return None
    if not task.data.has_translations:
        raise untranslated(title, prompt)
    if task.data.translation is None:
        return None
    return Translations(task.data.translation, context, interruption)


def _answered(
    answerer: Answerer,
    records: Sequence[Record],
    task: TaskConfig,
    done: Container[str] = (),
    context: ParallelContext | None = None,
) -> Iterator[list[Prediction]]:
    """This rank's answers, not yet judged, a batch at a time: what is written, or the likeliest option."""
    if task.scoring != LOG_LIKELIHOOD:
        for batch in answerer.answer(records, task.generation, done, context):
            yield [unjudged(one) for one in batch]
        return
    for weighed_batch in weighed(answerer, records, task.generation.batch_size, done, context):
        rows = [replace(unjudged(Answer(record, "")), options=options) for record, options in weighed_batch]
        yield decided(rows, task.length_normalization)


def solve(
    answerer: Answerer,
    records: Sequence[Record],
    task: TaskConfig,
    log: PredictionLog,
    interruption: Interruption,
    progress: Bar,
    translations: Translations | None = None,
) -> list[Prediction]:
    """Answer the records the log does not hold yet; all rows, on every rank, in the order of `records`.

    Those that are not answered yet are translated first, where there are `translations`.

    Rows are judged when they are written, for whoever reads the file, and again here, by the rule asked for now.
    Raises Interrupted, on all ranks, when a signal or a time limit ends it early; what was answered is kept.
    """
    done, answered = frozenset(log.rows), len(log.rows)
    if not done.issuperset(record.origin for record in records):  # all ranks know of the same rows
        if translations is not None:
            code = log.path.stem
            records = translations.of(records, f"{answerer.title} ({code})", functools.partial(_note, progress, code))
        for batch in _answered(answerer, records, task, done, log.context):
            new = [row for row in batch if row.origin not in done]
            if log.context.tensor_rank == 0:  # who writes them
                new = judge(new, task.rule)
            log.append(new)
            answered = min(len(records), answered + len(new) * log.context.data_size)  # other ranks answer as many
            progress.advance(0, note=f"{log.path.stem}: {answered} of {len(records)} answered")
            if interruption.noted:
                break
    reason = interruption.reason()
    if reason is not None:
        say(f"{answerer.title}: stopped by {reason}; the same command goes on from there")
        raise Interrupted(reason, interruption.signal)
    log.collect([record.origin for record in records])
    rows = [log.rows[record.origin] for record in records]
    return judge(decided(rows, task.length_normalization), task.rule, log.context)


def _note(progress: Bar, code: str, made: int, count: int) -> None:
    progress.advance(0, note=f"{code}: {made} of {count} translated")


def _how(task: TaskConfig) -> list[object]:
    """All of a task that decides what it is answered with; what a length normalization makes of options does not."""
    if task.scoring == LOG_LIKELIHOOD:
        return [LOG_LIKELIHOOD, task.generation.batch_size]
    return [task.generation.model_dump(mode="json")]


def _expected(task: TaskConfig) -> int | None:
    """Rows of a language that the task's split was published with, where all of them are asked for."""
    return None if task.data.limit_per_language is not None else task.rows.get(task.data.split)


def _tell_of_other_rows(name: str, code: str, account: DataAccount) -> None:
    """A line where a language has more or fewer rows than were published: its score is then another one's."""
    read = account.read[code]
    if account.expected is not None and read != account.expected:
        say(
            f"{name} ({code}): {account.path} has {read} readable rows, {'more' if read > account.expected else 'fewer'} than the "
            f"{account.expected} that were published: the score is not comparable with others'"
        )


def evaluate_task(
    answerer: Answerer,
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
        answerer = answerer.asked_by(task.prompt)
    translations = translations_of(task, answerer.prompt, f"task {name}", context, interruption)
    decided_by = [] if translations is None else [translations.config.path, translations.config.deciding]
    models = answerer.models if translations is None else {**answerer.models, **translations.files}
    work = digest([answerer.fingerprint, *_how(task), *decided_by])
    folder = folder / name
    require_ready(task.rule, context)
    with context.alone_in(folder), bar(f"{answerer.title} on {name}", len(languages)) as progress:
        for code in languages:
            records, account = load_records(task.data, run_languages, only=code)
            if not all(record.gold for record in records):
                raise UserError(
                    f"task {name} ({code}): some rows of {task.data.source} have no gold answer; choose a scorable split"
                )
            require_readable(template(answerer.prompt), records)
            require_scorable(records, task.rule)
            _require_choosable(records, task)
            account.expected = _expected(task)
            _tell_of_other_rows(name, code, account)
            accounts.append(account)
            log = PredictionLog(folder / f"{code}.jsonl", work, context, models)
            rows[code] = solve(answerer, records, task, log, interruption, progress, translations)
            progress.advance(note=code)
    return rows, accounts
