"""`mmscale evaluate`: score prediction files, consistency between languages, or a model on a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmscale import registry
from mmscale.cli import evaluate_options as o
from mmscale.cli import options

if TYPE_CHECKING:
    from mmscale.config.evaluation import TaskConfig


_ALWAYS = frozenset({"model", "files", "rule", "isolation", "as_json"})
_OF_FILES = _ALWAYS | {"predictions", "against", "language", "length_normalization"}
_OF_CONSISTENCY = _ALWAYS | {"consistency"}
_NOT_OF_A_MODEL = frozenset({"predictions", "against", "consistency", "language"})


def evaluate(
    context: typer.Context,
    model: o.Model = None,
    files: o.MoreFiles = None,
    predictions: o.Predictions = None,
    against: o.Against = None,
    consistency: o.Consistency = None,
    rule: o.Rule = None,
    language: o.Language = None,
    task: o.Task = None,
    source: o.Source = None,
    path: o.Data = None,
    languages: o.Languages = None,
    split: o.Split = None,
    limit: o.Limit = None,
    prompt: o.Prompt = None,
    translator: o.Translator = None,
    chat_template: o.Chat = False,
    response_prefix: o.ResponsePrefix = "",
    exemplars: o.Exemplars = None,
    exemplars_form: o.ExemplarsForm = None,
    shots: o.Shots = None,
    encoder: options.EncoderPath = None,
    mapping: options.MappingPath = None,
    trust_remote_code: options.TrustRemoteCode = False,
    max_new_tokens: o.MaxNewTokens = None,
    batch_size: o.BatchSize = None,
    scoring: o.Scoring = None,
    length_normalization: o.LengthNormalization = None,
    output: o.Output = Path("predictions"),
    isolation: o.Isolation = "bubblewrap",
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Score answers by a named rule.

    Example: `mmscale evaluate --predictions predictions.jsonl --rule last_number --json`

    Example: `mmscale evaluate --consistency de=de.jsonl --consistency fr=fr.jsonl --rule mcot --json`

    Example: `mmscale evaluate MODEL --task mgsm --data mgsm/`

    Example: `mmscale evaluate MODEL --task xcopa --prompt xcopa_text --scoring log_likelihood --length-normalization bytes`

    Example: `mmscale evaluate MODEL --task mgsm --exemplars url-nlp/mgsm/exemplars.py --exemplars-form english_cot`

    Example: `mmscale evaluate MODEL --task mgsm --prompt translate_test --translator facebook/nllb-200-3.3B`

    Example: `mmscale evaluate tinyworld:llm --source tinyworld --languages en,sw --limit 20 --prompt tinyworld_math --max-new-tokens 64`
    """
    from mmscale.config.execution import ExecutionConfig
    from mmscale.errors import UserError
    from mmscale.execution.room import set_up

    set_up(options.checked(ExecutionConfig, isolation=isolation))
    more = [*([model] if model else []), *(files or [])]
    _require_one_kind(context)
    if consistency:
        from mmscale.evaluation.scoring import consistency_of_files

        consistent = consistency_of_files([*consistency, *more], rule or "default")
        _show(consistent, as_json) if as_json else _show_consistency(consistent)
    elif predictions is not None:
        from mmscale.evaluation.scoring import score_files

        normalization = options.checked_normalization(length_normalization)
        _show(score_files([*predictions, *more], against, rule or "default", language, normalization), as_json)
    elif model is not None:
        where = {"source": source, "path": path, "languages": _codes(languages), "split": split}
        data = {**where, "limit_per_language": limit, "translation": _translation(translator)}
        chat = {"chat": chat_template, "response_prefix": response_prefix}
        few = {"exemplars": exemplars, "exemplars_form": exemplars_form, "shots": shots}
        asked = {"rule": rule, "prompt": _asked_by(task, prompt, chat, few)}
        asked |= {"scoring": scoring, "length_normalization": length_normalization}
        wanted = _task(task, data, asked, {"max_new_tokens": max_new_tokens, "batch_size": batch_size})
        parts = options.model_parts(model, trust=trust_remote_code, encoder=encoder, mapping=mapping)
        _show(_evaluate_model(model, parts, wanted, output), as_json)
    else:
        raise UserError("nothing to evaluate: give --predictions FILE, --consistency LANG=FILE … or a MODEL")


def _require_one_kind(context: typer.Context) -> None:
    """UserError where two kinds of evaluation are asked for, or an option that the one asked for does not read."""
    from mmscale.errors import UserError

    given = context.params
    if given["consistency"] and given["predictions"]:
        raise UserError("--predictions scores files, --consistency compares languages: ask for one of both at a time")
    if given["against"] is not None and not given["predictions"]:
        raise UserError("--against is what a file is compared with: give that file as --predictions FILE")
    if given["consistency"]:
        options.refuse_unread(context, "--consistency", only=_OF_CONSISTENCY)
    elif given["predictions"]:
        options.refuse_unread(context, "--predictions", only=_OF_FILES)
    else:
        options.refuse_unread(context, "a model", never=_NOT_OF_A_MODEL)
        if given["files"]:
            raise UserError(f"one model is evaluated at a time: leave {' '.join(given['files'])} out")


def _codes(languages: str | None) -> list[str] | None:
    from mmscale.errors import UserError

    codes = None if languages is None else [code.strip() for code in languages.split(",") if code.strip()]
    if codes == []:
        raise UserError(f"--languages {languages} names no language: give codes with commas between, or leave it out")
    return codes


def _task(name: str | None, data: dict[str, Any], asked: dict[str, Any], generation: dict[str, Any]) -> TaskConfig:
    """The task that the options describe, those not given left to the named one; UserError for a value that is wrong."""
    from mmscale.config.evaluation import TaskConfig

    begin = {} if name else {"source": "mgsm", "split": "test"}
    task: TaskConfig = options.checked(
        TaskConfig, task=name, data={**begin, **_given(data)}, generation=_given(generation), **_given(asked)
    )
    return task


def _asked_by(task: str | None, prompt: str | None, chat: dict[str, Any], few: dict[str, Any]) -> str | None:
    """The prompt that the options describe; a chat format is laid around the task's own where none is named."""

    if (
        prompt is None
        and chat["chat"]
        and not few["exemplars"]
        and task is not None
        and task in registry.names("tasks")
    ):
        named: TaskConfig = registry.get("tasks", task)
        prompt = named.prompt
    return options.named_prompt(prompt, **chat, **few)


def _translation(translator: str | None) -> Any:
    """A translator as it is typed: its path, or its settings as YAML."""
    from mmscale.storage.reading import parse_yaml

    if translator is None or not translator.startswith("{"):
        return translator and {"path": translator}
    return parse_yaml(translator, "--translator")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _evaluate_model(model: str, parts: Any, task: TaskConfig, output: Path) -> dict[str, object]:
    from mmscale.answering.local import local_answerer
    from mmscale.cli.devices import default_device
    from mmscale.config.parallel import InterruptionConfig
    from mmscale.data.prompts import reads_translation
    from mmscale.errors import UserError
    from mmscale.evaluation.answers import rule
    from mmscale.evaluation.scores import language_scores
    from mmscale.evaluation.solving import evaluate_task
    from mmscale.parallel.context import ParallelContext
    from mmscale.parallel.interruption import Interruption

    context = ParallelContext(device=default_device())
    solver = local_answerer(model, parts, None, context)
    prompt = task.prompt or solver.prompt
    if task.data.translation is not None and not reads_translation(prompt):
        raise UserError(
            f"--translator is of no use with prompt {prompt}, which shows no translation: choose translate_test, mindmerger_hard "
            f"or another that does, or leave it out"
        )
    with Interruption(InterruptionConfig(), context) as stop:
        name = task.task or task.data.source
        rows, _ = evaluate_task(solver, name, task, _languages(task), output, context, stop)
    return {code: language_scores(judged, rule(task.rule)) for code, judged in rows.items()}


def _languages(task: TaskConfig) -> tuple[str, ...]:
    """Those asked for; else all that a named task is in."""
    from mmscale.data.sources import source

    own = source(task.data.source).languages if task.task else ()
    return task.data.languages or own or ("en",)


def _show_consistency(consistent: dict[str, Any]) -> None:
    """CC and IC as tables in per cent; a dash where an IC rests on few wrong answers."""
    from mmscale.evaluation.consistency import FEW, worth_showing

    codes = list(consistent["cc"])
    print(f"{consistent['n']} problems, matched by {consistent['by']}, rule {consistent['rule']}; per cent")
    for kind in ("cc", "ic"):
        print(f"{kind.upper():>6} " + " ".join(f"{code:>6}" for code in codes))
        for a in codes:
            shown = [
                consistent[kind][a][b] if kind == "cc" or worth_showing(consistent["wrong"], a, b) else None
                for b in codes
            ]
            print(f"{a:>6} " + " ".join(f"{'–' if x is None else format(100 * x, '.1f'):>6}" for x in shown))
    print(f"{'wrong':>6} " + " ".join(f"{consistent['wrong'][code]:>6}" for code in codes))
    if min(consistent["wrong"].values()) < FEW:
        print(f"– : fewer than {FEW} wrong answers in one of the languages")


def _show(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
        return
    for key, value in result.items():
        print(f"{key}: {json.dumps(value, ensure_ascii=False)}")
