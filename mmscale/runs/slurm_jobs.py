"""Methods as Slurm jobs, one per stage, each after the method's one before; and watching them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig, dump_run
from mmscale.errors import UserError, unknown_name
from mmscale.methods import Method, recipe
from mmscale.methods.base import StageSpec
from mmscale.parallel import slurm
from mmscale.parallel.context import ParallelContext
from mmscale.progress import bar, say
from mmscale.runs.run import Run, check
from mmscale.runs.stage import Stage
from mmscale.storage.files import atomic_write
from mmscale.training.metrics import read_metrics

ANSWERS, EVALUATION = "answers", "evaluation"


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """One Slurm job: a stage, or what is left of the run."""

    name: str
    title: str
    stage: Stage | None
    """None for what comes after the stages."""
    after: tuple[str, ...]
    """Names of jobs that have to succeed first."""
    script: Path
    log: Path
    text: str


def wanted_stages(run: RunConfig, target: str) -> list[tuple[Method, StageSpec]]:
    """The stages of "METHOD", or of "METHOD.STAGE" that one alone; UserError when there is no such thing."""
    name, _, stage = target.partition(".")
    if name not in run.recipes and name not in run.methods:
        raise unknown_name("method of this configuration", name, [*run.recipes, *run.methods])
    chosen = recipe(run, name)
    if not chosen.stages:
        raise UserError(
            f"{name} trains nothing, so it has no job of its own: leave it out, its answers come with the others'"
        )
    names = [spec.name for spec in chosen.stages]
    if stage and stage not in names:
        raise unknown_name(f"stage of {name}", stage, names)
    return [(chosen, spec) for spec in chosen.stages if stage in ("", spec.name)]


def jobs(run: RunConfig, targets: Sequence[str], cluster: ClusterConfig) -> list[SlurmJob]:
    """What is submitted for methods or stages; when none is named, all methods, then an array in which each model
    answers its tasks, then scores and report.

    The resolved configuration lies beside the scripts, so that a change of the file it came from does not reach a
    job that is already waiting.
    """
    check(run)
    made: list[SlurmJob] = []
    last: dict[str, str] = {}
    trained = [name for name in run.methods if recipe(run, name).stages]
    for chosen, spec in [wanted for target in targets or trained for wanted in wanted_stages(run, target)]:
        name = f"{chosen.name}.{spec.name}"
        after = (last[chosen.name],) if chosen.name in last else ()
        stage = Stage(run, chosen, spec)
        text = _text(run, cluster, name, ["train", name])
        made.append(
            SlurmJob(
                name=name,
                title=stage.title,
                stage=stage,
                after=after,
                script=_folder(run) / f"{name}.sbatch",
                log=_log(run, name),
                text=text,
            )
        )
        last[chosen.name] = name
    return made if targets else [*made, *_evaluation(run, cluster, tuple(last.values()))]


def _evaluation(run: RunConfig, cluster: ClusterConfig, after: tuple[str, ...]) -> list[SlurmJob]:
    """Every model's answers side by side, where there is a task, then what is made of them."""
    models = Run(run, ParallelContext(device=torch.device("cpu"))).models if run.evaluation.tasks else []
    jobs = []
    if models:
        text = _text(run, cluster, ANSWERS, ["run"], models)
        script = _folder(run) / f"{ANSWERS}.sbatch"
        jobs.append(
            SlurmJob(
                name=ANSWERS,
                title="Answers",
                stage=None,
                after=after,
                script=script,
                log=_log(run, f"{ANSWERS}-%a"),
                text=text,
            )
        )
        after = (ANSWERS,)
    text = _text(run, cluster, EVALUATION, ["run", "--scores"], template="scores")
    script = _folder(run) / f"{EVALUATION}.sbatch"
    return [
        *jobs,
        SlurmJob(
            name=EVALUATION,
            title="Scores and report",
            stage=None,
            after=after,
            script=script,
            log=_log(run, EVALUATION),
            text=text,
        ),
    ]


def _folder(run: RunConfig) -> Path:
    return run.directory.resolve() / "slurm"


def _log(run: RunConfig, name: str) -> Path:
    return _folder(run) / f"{name}.log"


def _text(
    run: RunConfig,
    cluster: ClusterConfig,
    name: str,
    verb: list[str],
    models: Sequence[str] = (),
    template: str = "train",
) -> str:
    """The batch script of a job; of an array with an element a model, where there are any."""
    values = {
        "job_name": f"{run.name}-{name}",
        "log": _log(run, f"{name}-%a" if models else name),
        "folder": _folder(run),
        "directory": Path.cwd(),
        "arguments": [verb[0], str(_folder(run) / "run.yaml"), *verb[1:]],
    }
    if models:
        return slurm.render("evaluation", cluster, **values, models=models)
    return slurm.render(template, cluster, **values)


def submit(run: RunConfig, made: list[SlurmJob]) -> list[str]:
    """Write scripts and configuration, submit every job after those it waits for; the job numbers."""
    absolute = run.model_copy(update={"output_dir": str(run.directory.resolve())})
    with atomic_write(made[0].script.parent / "run.yaml") as handle:
        handle.write(dump_run(absolute))
    numbers: dict[str, str] = {}
    for job in made:
        with atomic_write(job.script) as handle:
            handle.write(job.text)
        numbers[job.name] = slurm.submit(job.script, [numbers[name] for name in job.after])
        say(f"{job.title}: job {numbers[job.name]}, log {job.log}")
    return list(numbers.values())


def watch(made: list[SlurmJob], numbers: list[str], every_seconds: float = 5.0) -> bool:
    """Follow state and loss until all jobs ended; whether all succeeded."""
    for job, number in zip(made, numbers, strict=True):
        total = (job.stage.config.steps if job.stage else None) or 0
        shown, last = "", 0
        with bar(job.title, total) as progress:
            while (state := slurm.state(number)) not in slurm.FINAL_STATES and state != "UNKNOWN":
                rows = _losses(job)
                step = int(rows[-1]["step"]) if rows else 0
                progress.advance(step - last, note=f"{state}  loss {rows[-1]['loss']:.3f}" if rows else state)
                last = step
                if state != shown:
                    say(f"{job.title}: {state.lower()}" + (f" at step {step} of {total or '?'}" if step else ""))
                shown = state
                time.sleep(every_seconds)
        say(f"{job.title}: {state.lower()}")
        if state != "COMPLETED":
            return False
    return True


def _losses(job: SlurmJob) -> list[dict[str, Any]]:
    if job.stage is None:
        return []
    return [row for row in read_metrics(job.stage.folder / "metrics.jsonl") if "loss" in row]
