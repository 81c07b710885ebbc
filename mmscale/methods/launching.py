"""Methods as Slurm jobs, one a stage, each after the method's one before; and watching them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig, dump_run
from mmscale.errors import unknown_name
from mmscale.files import atomic_write
from mmscale.methods import Method, method
from mmscale.methods.base import StageSpec
from mmscale.methods.recipe import check
from mmscale.methods.stages import StagePlace
from mmscale.parallel import slurm
from mmscale.progress import bar, say
from mmscale.training.metrics import read_metrics


@dataclass(frozen=True)
class Job:
    """One stage as one Slurm job."""

    place: StagePlace
    script: Path
    log: Path
    text: str


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
    """What is submitted for methods or stages; for all methods of the run when none is named.

    The resolved configuration lies beside the scripts, so that a change of the file it came from does not reach a
    job that is already waiting.
    """
    check(run)
    folder = run.directory.resolve() / "slurm"
    resolved = folder / "run.yaml"
    made = []
    for chosen, spec in [found for target in targets or run.recipes for found in wanted_stages(run, target)]:
        name = f"{chosen.name}.{spec.name}"
        log = folder / f"{name}.log"
        text = slurm.render(
            "train",
            cluster,
            job_name=f"{run.name}-{name}",
            log=log,
            directory=Path.cwd(),
            arguments=[str(resolved), name],
        )
        made.append(Job(StagePlace(run, chosen, spec), folder / f"{name}.sbatch", log, text))
    return made


def submit(run: RunConfig, made: list[Job]) -> list[str]:
    """Write scripts and configuration, submit each method's stages in a chain; the job numbers."""
    absolute = run.model_copy(update={"output_dir": str(run.directory.resolve())})
    with atomic_write(made[0].script.parent / "run.yaml") as handle:
        handle.write(dump_run(absolute))
    numbers: list[str] = []
    last: dict[str, str] = {}
    for job in made:
        with atomic_write(job.script) as handle:
            handle.write(job.text)
        name = job.place.method.name
        last[name] = slurm.submit(job.script, after=last.get(name))
        numbers.append(last[name])
        say(f"{job.place.title}: job {numbers[-1]}, log {job.log}")
    return numbers


def watch(made: list[Job], numbers: list[str], every_seconds: float = 5.0) -> bool:
    """Follow state and loss until all jobs ended; whether all succeeded."""
    for job, number in zip(made, numbers, strict=True):
        total = job.place.config.steps or 0
        shown, last = "", 0
        with bar(job.place.title, total) as progress:
            while (state := slurm.state(number)) not in slurm.FINAL_STATES and state != "UNKNOWN":
                rows = [row for row in read_metrics(job.place.folder / "metrics.jsonl") if "loss" in row]
                step = int(rows[-1]["step"]) if rows else 0
                progress.advance(step - last, note=f"{state}  loss {rows[-1]['loss']:.3f}" if rows else state)
                last = step
                if state != shown:
                    say(f"{job.place.title}: {state.lower()}" + (f" at step {step} of {total or '?'}" if step else ""))
                shown = state
                time.sleep(every_seconds)
        say(f"{job.place.title}: {state.lower()}")
        if state != "COMPLETED":
            return False
    return True
