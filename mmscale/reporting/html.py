"""A run directory as one self-contained HTML file: no network, no script, readable on a phone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from mmscale.errors import UserError
from mmscale.evaluation.answers import rule
from mmscale.evaluation.consistency import FEW, worth_showing
from mmscale.evaluation.predictions import Prediction, read_log, verdict
from mmscale.languages import language_name
from mmscale.reporting.curves import loss_curve
from mmscale.reporting.forms import ACCOUNTS, AGAIN, ENVIRONMENT, SCORES, read_form
from mmscale.reporting.sweep import sweep_picture
from mmscale.reporting.text import failures_of
from mmscale.storage.files import atomic_write
from mmscale.storage.reading import read_text
from mmscale.training.metrics import read_metrics

_COLOURS = ("#8a8f98", "#3b7dd8", "#2a9d6f", "#d8703b", "#8e5bd0", "#c0407a")


def _stages(folder: Path) -> list[dict[str, Any]]:
    stages: list[dict[str, Any]] = []
    for place in sorted((folder / "stages").glob("*")) if (folder / "stages").is_dir() else []:
        rows = read_metrics(place / "metrics.jsonl")
        losses = [row for row in rows if "loss" in row]
        if losses:
            stages.append(
                {
                    "name": place.name,
                    "steps": int(losses[-1]["step"]),
                    "loss": losses[-1]["loss"],
                    "svg": loss_curve(rows),
                    "finished": (place / "model").is_dir(),
                    "data": read_form(place / "data.json", ACCOUNTS, []),
                }
            )
    return stages


def _samples(folder: Path, model: str, task: str, rule_name: str) -> list[dict[str, Any]]:
    """The first right and the first wrong answer of each language."""
    chosen, samples = rule(rule_name), []
    for file in sorted((folder / "predictions" / model / task).glob("*.jsonl")):
        examples: dict[bool, tuple[Prediction, str]] = {}
        for row in read_log(file):
            if chosen.running is not None:  # as it was judged: a report runs no programs
                prediction, correct = row.prediction, row.correct
            else:
                prediction, correct = verdict(row, chosen)
            examples.setdefault(correct, (row, prediction))
            if len(examples) == 2:
                break
        for correct, (row, prediction) in sorted(examples.items(), reverse=True):
            samples.append({"language": file.stem, "correct": correct, "row": row, "prediction": prediction})
    return samples


def _tasks(folder: Path, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """One entry a task: models with colours, languages with bars, heat maps and samples."""
    tasks = []
    for task in dict.fromkeys(name for model in scores.values() for name in model["tasks"]):
        models = [
            {
                "key": key,
                "title": model["title"],
                "colour": _COLOURS[i % len(_COLOURS)],
                "compared_with": model["compared_with"],
                "wrong": {},
                **model["tasks"][task],
                "samples": _samples(folder, key, task, model["tasks"][task]["rule"]),
            }
            for i, (key, model) in enumerate(_shown(scores).items())
            if task in model["tasks"]
        ]
        codes = list(dict.fromkeys(code for model in models for code in model["languages"]))
        sweep = sweep_picture(scores, task)
        closed = next((model for model in models if "gap_closed" in model), None)
        rule_name = models[0]["rule"]
        entry = {"name": task, "models": models, "codes": codes, "rule": rule_name, "sweep": sweep, "closed": closed}
        tasks.append({**entry, "failures": _failures(models)})
    return tasks


def _failures(models: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """name -> model -> answers of all languages whose programs failed so, the most frequent first."""
    counts: dict[str, dict[str, int]] = {}
    for model in models:
        for name, number in failures_of(model).items():
            counts.setdefault(name, {})[model["key"]] = number
    return dict(sorted(counts.items(), key=lambda one: -sum(one[1].values())))


def _shown(scores: dict[str, Any]) -> dict[str, Any]:
    """Models of the tables; other strengths of proxy-tuning stand in a picture of their own."""
    return {name: model for name, model in scores.items() if not model.get("of_sweep")}


def _run(folder: Path) -> dict[str, Any]:
    scores = read_form(folder / "scores.json", SCORES, None)
    if scores is None and not (folder / "stages").is_dir():
        raise UserError(f"{folder} holds neither scores.json nor stages: it is not a run directory of mmscale")
    config = folder / "run.yaml"
    return {
        "folder": folder.name,
        "tasks": _tasks(folder, scores or {}),
        "stages": _stages(folder),
        "environment": read_form(folder / "environment.json", ENVIRONMENT, {}),
        "config": read_text(config) if config.is_file() else "",
    }


@contextlib.contextmanager
def as_written(*files: Path) -> Iterator[None]:
    """UserError where what is made of files shows that they are not what a run writes."""
    try:
        yield
    except (jinja2.UndefinedError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{', '.join(map(str, files))}: not as a run writes it ({error}): {AGAIN}") from error


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Write the report of one or several run directories; returns `output`. UserError when a folder is no run."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files("mmscale.reporting") / "templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(few=FEW, worth_showing=worth_showing, name_of=language_name)
    with as_written(*(Path(run) / "scores.json" for run in runs)):
        shown = [_run(Path(run)) for run in runs]
        text = environment.get_template("report.html.j2").render(runs=shown)
    with atomic_write(output) as handle:
        handle.write(text)
    return output
