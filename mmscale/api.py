"""mmscale from Python: load a model, read and tokenize records, train a stage, answer and score.

`import mmscale` offers these names and imports torch only when the first of them is used. Everything runs in this process;
`train_stage` also under a launcher, as one rank of many. Bad input raises `UserError`, whose text is the sentence that the
command line would print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from mmscale import logs
from mmscale.answering.local import LocalAnswerer, Steering, local_answerer, proxy_answerer
from mmscale.cli.devices import default_device, joined, started
from mmscale.config.data import DataConfig
from mmscale.config.evaluation import GenerationConfig
from mmscale.config.execution import ExecutionConfig
from mmscale.config.mistakes import validation_sentence
from mmscale.config.model import LanguageModelConfig
from mmscale.config.run import load_run
from mmscale.data import loading
from mmscale.data.records import Problem, Record
from mmscale.data.segments import TokenizedExample
from mmscale.errors import UserError
from mmscale.evaluation import predictions, solving
from mmscale.evaluation.answers import rule as rule_named
from mmscale.evaluation.predictions import Prediction, Score
from mmscale.execution import room
from mmscale.models.assembly import ModelParts, read_parts
from mmscale.parallel.context import ParallelContext
from mmscale.runs.environment import set_up_torch
from mmscale.runs.run import stages_up_to
from mmscale.runs.stage_data import prepare
from mmscale.runs.training import run_stage


@dataclass(frozen=True)
class Model:
    """A model in memory that answers questions: plain, with an encoder in front, or proxy-tuned."""

    name: str
    _answerer: LocalAnswerer = field(repr=False)


def load_model(
    path: str | Path,
    *,
    prompt: str | None = None,
    dtype: str | None = None,
    expert: str | Path | None = None,
    antiexpert: str | Path | None = None,
    alpha: float = 1.0,
    trust_remote_code: bool = False,
) -> Model:
    """Load a model to answer with, on this machine's first GPU or its CPU.

    Args:
        path: A folder (a stage's `model/`, or any Hugging Face checkpoint), a hub id, or `tinyworld:NAME`.
        prompt: Template that puts the questions; by default the one the model was trained with, else `alpaca`.
        dtype: Dtype of the weights, such as `bfloat16`; by default the one a model of ours was saved with, else `float32`.
        expert: Tuned small model that steers the one at `path` (proxy-tuning).
        antiexpert: The same small model untuned; `expert` and `antiexpert` go together.
        alpha: Strength of steering: logits = base + alpha (expert - antiexpert).
        trust_remote_code: Whether Python code in the models' folders may run.

    Raises:
        UserError: Where a model is missing, damaged, of an architecture that does not run here as in transformers, or
            where the models of proxy-tuning do not share a vocabulary.
    """
    if (expert is None) != (antiexpert is None):
        raise UserError("proxy-tuning needs both expert and antiexpert: give both, or neither")
    context, name = ParallelContext(device=default_device()), str(path)
    parts = _parts(path, dtype, trust_remote_code)
    if expert is None or antiexpert is None:
        return _loaded(name, local_answerer(name, parts, prompt, context))
    small = [_parts(one, dtype, trust_remote_code) for one in (expert, antiexpert)]
    return _loaded(
        name, proxy_answerer(name, parts, Steering(expert=small[0], antiexpert=small[1], alpha=alpha), context, prompt)
    )


def _loaded(name: str, answerer: LocalAnswerer) -> Model:
    """What is wrong with a model is told when it is loaded, not when it is asked."""
    _ = answerer.loaded
    return Model(name, answerer)


def _parts(path: str | Path, dtype: str | None, trust_remote_code: bool) -> ModelParts:
    parts, trust = read_parts(str(path)), {"trust_remote_code": trust_remote_code}
    said = {**parts.language_model.model_dump(), **trust, **({"dtype": dtype} if dtype else {})}
    try:
        own = LanguageModelConfig.model_validate(said)
    except ValidationError as error:
        raise validation_sentence(LanguageModelConfig, error, "load_model") from error
    return replace(parts, language_model=own, encoder=parts.encoder and parts.encoder.model_copy(update=trust))


def load_records(data: DataConfig) -> list[Record]:
    """Read the records of a data set, language after language, in the order of its files.

    Args:
        data: Source, path, languages and what to leave out, as under `data` in a configuration.

    Raises:
        UserError: Where a file is missing, a language has no rows, or too many rows cannot be read.
    """
    records, _ = loading.load_records(data, data.languages)
    return records


def tokenize(model: Model, records: Sequence[Record], *, with_target: bool = True) -> list[TokenizedExample]:
    """Turn records into token ids as this model reads them: its prompt around the text, one BOS, one EOS.

    Args:
        model: Whose tokenizer and prompt are used.
        records: Of the kind that the prompt reads.
        with_target: Whether to add what the model would be trained to write; without it the ids end where an answer begins.

    Raises:
        UserError: Where a record is of another kind, or its target is empty.
    """
    return model._answerer.loaded.tokenizers[0](records, with_target)


def train_stage(config: str | Path, stage: str, overrides: Sequence[str] = ()) -> Path:
    """Train one stage of a run, and the stages before it that are not finished; an interrupted one goes on.

    Args:
        config: YAML file, or the name of one that ships with mmscale.
        stage: `METHOD.STAGE`, such as `mindmerger.mapping`.
        overrides: Settings that differ from the file, such as `recipes.mindmerger.mapping.steps=10`.

    Returns:
        The folder of the stage's model, for `load_model`, `mmscale generate` or transformers.

    Raises:
        UserError: Where the configuration or its data is wrong, or a folder was made with other settings.
    """
    run = load_run(str(config), list(overrides))
    stages = stages_up_to(run, stage)
    parts = ModelParts(language_model=run.language_model)
    world = started()
    logs.to_folder(run.directory)
    prepare(stages, world)
    with joined(run.parallel, world) as context:
        set_up_torch(run)
        for one in stages:
            parts = run_stage(one, parts, context)
    return stages[-1].model


def answer(
    model: Model, questions: Sequence[str | Record], language: str = "en", generation: GenerationConfig | None = None
) -> list[Prediction]:
    """Answer questions in batches; answers come in the order of the questions.

    Args:
        model: Loaded by `load_model`.
        questions: Texts, or records with gold answers to score against.
        language: Language of the questions that are texts; records name their own.
        generation: Limits, sampling and batch size; greedy by default.

    Raises:
        UserError: Where a question leaves no room for an answer, or the model's prompt does not read such records.
    """
    asked = [Problem(question=one, language=language) if isinstance(one, str) else one for one in questions]
    numbered = [replace(record, origin=str(i)) for i, record in enumerate(asked)]  # type: ignore[type-var]
    answered = model._answerer.answer(numbered, generation or GenerationConfig())
    rows = {int(one.record.origin): solving.unjudged(one) for batch in answered for one in batch}
    return [replace(rows[i], origin=record.origin) for i, record in enumerate(asked)]


def log_likelihood(model: Model, records: Sequence[Record]) -> list[float]:
    """Log-probability that the model's own prompt goes on with each record's target, in nats; the end of text not counted.

    Args:
        model: Loaded by `load_model`; proxy-tuned, it is that of the combined logits.
        records: Their targets are what a model would be trained to write: a problem's rationale, an option's label.

    Raises:
        UserError: Where the model's prompt does not read such records, a target is empty, or both exceed the context.
    """
    return model._answerer.log_likelihood(records)


def score(rows: Sequence[Prediction], rule: str = "default", isolation: str = "bubblewrap") -> Score:
    """The share of right answers with its 95 % Wilson interval.

    Args:
        rows: Answers with gold, from `answer` or `read_predictions`.
        rule: How an answer is read out of a response: `default`, `last_number`, `mcot`, `proxy_gsm`, `exact` or `program`.

        isolation: Of rule `program`: `bubblewrap`, or `none`, which runs the answers' programs as you.

    Raises:
        UserError: Where a row's gold answer is none that the rule can compare anything with, or programs cannot be run.
    """
    chosen = rule_named(rule)
    predictions.require_scorable(rows, chosen)
    if chosen.running is not None:
        try:
            room.set_up(ExecutionConfig.model_validate({"isolation": isolation}))
        except ValidationError as error:
            raise validation_sentence(ExecutionConfig, error, "score") from error
    chosen.ahead([row.response for row in rows])
    return predictions.score([predictions.verdict(row, chosen)[1] for row in rows])


def read_predictions(path: str | Path, language: str | None = None) -> list[Prediction]:
    """Read a prediction file, ours or in a form that the methods' authors or lm-eval write.

    Args:
        path: JSONL, or a JSON array.
        language: Language of rows that do not name theirs; by default the file's name says it, else English.

    Raises:
        UserError: Naming the first row that cannot be read.
    """
    return predictions.read(Path(path), language)
