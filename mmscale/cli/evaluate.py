"""`mmscale evaluate`: score prediction files, consistency between languages, or a model on a task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    model: Annotated[str | None, typer.Argument(help="model folder, hub id or tinyworld:NAME to run on a task")] = None,
    files: Annotated[list[str] | None, typer.Argument(help="with --consistency: more LANG=FILE")] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="prediction file to score: JSONL or JSON array, the authors' forms or ours")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="second prediction file over the same rows: paired bootstrap")
    ] = None,
    consistency: Annotated[
        list[str] | None, typer.Option(help="LANG=FILE, at least two: CC and IC of all pairs")
    ] = None,
    rule: Annotated[str, typer.Option(help="default, last_number, mcot, proxy_gsm or exact")] = "default",
    language: Annotated[
        str | None,
        typer.Option(help="language of rows that do not name theirs; by default the file's name says it, else en"),
    ] = None,
    source: Annotated[str, typer.Option(help="with MODEL: data source of the task")] = "mgsm",
    path: Annotated[str, typer.Option(help="with MODEL: path of its files")] = "",
    languages: Annotated[str, typer.Option(help="with MODEL: comma-separated codes")] = "en",
    split: Annotated[str, typer.Option(help="with MODEL: split of the source")] = "test",
    limit: Annotated[int | None, typer.Option(help="with MODEL: first rows of each language")] = None,
    prompt: Annotated[str | None, typer.Option(help="with MODEL: prompt template")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="with MODEL")] = 512,
    batch_size: Annotated[int, typer.Option(help="with MODEL")] = 32,
    output: Annotated[Path, typer.Option(help="with MODEL: folder of its prediction files")] = Path("predictions"),
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Score answers by a named rule.

    Example: `mmscale evaluate --predictions predictions.jsonl --rule last_number --json`

    Example: `mmscale evaluate --consistency de=de.jsonl --consistency fr=fr.jsonl --rule mcot --json`

    Example: `mmscale evaluate tinyworld:llm --source tinyworld --languages en,sw --limit 20 --prompt tinyworld_math --max-new-tokens 64`
    """
    from mmscale.errors import UserError

    if consistency:
        pairs = [*consistency, *([model] if model else []), *(files or [])]
        _show(_consistency(pairs, rule), as_json)
    elif predictions is not None:
        _show(_score_file(predictions, against, rule, language), as_json)
    elif model is not None:
        from mmscale.config.data import DataConfig
        from mmscale.config.evaluation import GenerationConfig, TaskConfig

        generation = GenerationConfig(max_new_tokens=max_new_tokens, batch_size=batch_size)
        data = DataConfig(
            source=source, path=path, languages=tuple(languages.split(",")), split=split, limit_per_language=limit
        )
        _show(_evaluate_model(model, TaskConfig(data=data, rule=rule, generation=generation), prompt, output), as_json)
    else:
        raise UserError("nothing to evaluate: give --predictions FILE, --consistency LANG=FILE … or a MODEL")


def _score_file(file: Path, against: Path | None, rule_name: str, language: str | None) -> dict[str, object]:
    from mmscale.errors import UserError
    from mmscale.evaluation.answers import rule
    from mmscale.evaluation.predictions import read, score, verdict
    from mmscale.evaluation.statistics import paired_bootstrap

    chosen = rule(rule_name)
    verdicts = [verdict(row, chosen)[1] for row in read(file, language)]
    result: dict[str, object] = {**score(verdicts).to_json(), "rule": rule_name}
    if against is not None:
        other = [verdict(row, chosen)[1] for row in read(against, language)]
        if len(other) != len(verdicts):
            raise UserError(
                f"{file} has {len(verdicts)} rows and {against} has {len(other)}: a paired test needs the same rows"
            )
        gain = paired_bootstrap(other, verdicts)
        result["gain"] = {"difference": gain.difference, "interval": gain.interval, "p_value": gain.p_value}
    return result


def _consistency(pairs: list[str], rule_name: str) -> dict[str, object]:
    from mmscale.errors import UserError
    from mmscale.evaluation.answers import rule
    from mmscale.evaluation.consistency import matrices
    from mmscale.evaluation.predictions import read, verdict

    chosen = rule(rule_name)
    verdicts = {}
    for pair in pairs:
        code, separator, file = pair.partition("=")
        if not separator:
            raise UserError(f"'{pair}' is not LANG=FILE; for example de=predictions/de.jsonl")
        verdicts[code] = [verdict(row, chosen) for row in read(Path(file), code)]
    if len(verdicts) < 2:
        raise UserError("consistency needs at least two languages: give LANG=FILE twice or more")
    cc, ic = matrices(verdicts, chosen)
    return {"cc": cc, "ic": ic, "rule": rule_name}


def _evaluate_model(model: str, task: object, prompt: str | None, output: Path) -> dict[str, object]:
    from mmscale.cli.devices import default_device
    from mmscale.config.evaluation import TaskConfig
    from mmscale.config.parallel import InterruptionConfig
    from mmscale.evaluation.predictions import score
    from mmscale.evaluation.solving import evaluate_task
    from mmscale.methods.solvers import model_solver
    from mmscale.models.assembly import read_parts
    from mmscale.parallel.interruption import Interruption
    from mmscale.parallel.layout import Layout

    assert isinstance(task, TaskConfig)
    layout = Layout(default_device())
    solver = model_solver(model, read_parts(model), prompt, layout)
    with Interruption(InterruptionConfig(), layout) as stop:
        rows, _ = evaluate_task(solver, task.data.source, task, task.data.languages, output, layout, stop)
    return {code: score([row.correct for row in found]).to_json() for code, found in rows.items()}


def _show(result: dict[str, object], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result, ensure_ascii=False, indent=2))
        return
    for key, value in result.items():
        print(f"{key}: {json.dumps(value, ensure_ascii=False)}")
