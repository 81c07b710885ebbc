"""Methods as Slurm jobs, one a stage, each after the method's one before; and watching them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig, dump_run
from mmscale.errors import unknown_name
from mmscale.files import atomic_write
from mmscale.methods import Method, method
from mmscale.methods.base import StageSpec
from mmscale.methods.place import StagePlace
from mmscale.methods.recipe import check
from mmscale.parallel import slurm
from mmscale.progress import bar, say
from mmscale.training.metrics import read_metrics

EVALUATION = "evaluation"


@dataclass(frozen=True)
class Job:
    """One Slurm job: a stage, or what is left of the run."""

    name: str
    place: StagePlace | None
    """None for the rest of the run: evaluation and report."""
    after: tuple[str, ...]
    """Names of jobs that have to succeed first."""
    script: Path
    log: Path
    text: str

    @property
    def title(self) -> str:
        return self.place.title if self.place else "Evaluation and report"


def wanted_stages(run: RunConfig, target: str) -> list[tuple[Method, StageSpec]]:
    """The stages of "METHOD", or of "METHOD.STAGE" that one alone; UserError when there is no such thing."""
    name, _, stage = target.partition(".")
    if name not in run.recipes:
        raise unknown_name("method of this configuration", name, run.recipes)
    chosen = method(name)
    names = [spec.name for spec in chosen.stages]
    if stage and stage not in names:
        raise unknown_name(f"stage of {name}", stage, names)
    return [(chosen, spec) for spec in chosen.stages if stage in ("", spec.name)]


def jobs(run: RunConfig, targets: Sequence[str], cluster: ClusterConfig) -> list[Job]:
    """What is submitted for methods or stages; when none is named, all methods and then evaluation and report.

    The resolved configuration lies beside the scripts, so that a change of the file it came from does not reach a
    job that is already waiting.
    """
    check(run)
    made: list[Job] = []
    last: dict[str, str] = {}
    for chosen, spec in [found for target in targets or run.methods for found in wanted_stages(run, target)]:
        name = f"{chosen.name}.{spec.name}"
        after = (last[chosen.name],) if chosen.name in last else ()
        made.append(_job(run, cluster, name, StagePlace(run, chosen, spec), after, ["train", name]))
        last[chosen.name] = name
    if not targets:
        made.append(_job(run, cluster, EVALUATION, None, tuple(last.values()), ["run"]))
    return made


def _job(
    run: RunConfig, cluster: ClusterConfig, name: str, place: StagePlace | None, after: tuple[str, ...], verb: list[str]
) -> Job:
    folder = run.directory.resolve() / "slurm"
    log, arguments = folder / f"{name}.log", [verb[0], str(folder / "run.yaml"), *verb[1:]]
    title = f"{run.name}-{name}"
    text = slurm.render("train", cluster, job_name=title, log=log, directory=Path.cwd(), arguments=arguments)
    return Job(name, place, after, folder / f"{name}.sbatch", log, text)


def submit(run: RunConfig, made: list[Job]) -> list[str]:
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


def watch(made: list[Job], numbers: list[str], every_seconds: float = 5.0) -> bool:
    """Follow state and loss until all jobs ended; whether all succeeded."""
    for job, number in zip(made, numbers, strict=True):
        total = (job.place.config.steps if job.place else None) or 0
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


def _losses(job: Job) -> list[dict[str, Any]]:
    if job.place is None:
        return []
    return [row for row in read_metrics(job.place.folder / "metrics.jsonl") if "loss" in row]
