"""Jobs on a Slurm cluster: batch scripts from templates, submitting, watching, and what a job says about itself."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from mmscale.config.cluster import ClusterConfig
from mmscale.errors import UserError
from mmscale.progress import say

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL"})
"""squeue(1), job state codes; PREEMPTED and NODE_FAIL go back into the queue with --requeue."""


def render(template: str, cluster: ClusterConfig, **values: Any) -> str:
    """A batch script of launch/slurm; a value the template wants and nobody gives is an error, text is shell-quoted."""
    folder = Path(str(resources.files("mmscale.launch"))) / "slurm"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["q"] = _quoted
    return environment.get_template(f"{template}.sbatch.j2").render(cluster=cluster, **values)


def _quoted(value: object) -> str:
    text = str(value)
    if "\n" in text or "\r" in text:
        raise UserError(f"{text!r} has a line break, which no batch script option can hold: take it out")
    return shlex.quote(text)


def submit(script: Path, after: Sequence[str] = ()) -> str:
    """The job number of a submitted script; it starts when all jobs of `after` have succeeded."""
    # should one of them fail, this one is cancelled instead of waiting for ever
    chained = [f"--dependency=afterok:{':'.join(after)}", "--kill-on-invalid-dep=yes"] if after else []
    command = ["sbatch", "--parsable", *chained, str(script)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise UserError(
            f"sbatch is not on this machine: run this on a login node of the cluster, or submit {script} there"
        ) from error
    if done.returncode != 0:
        raise UserError(f"Slurm refused {script}: {done.stderr.strip().splitlines()[-1]}; correct the cluster file")
    return done.stdout.strip().split(";")[0]


def state(job: str) -> str:
    """The state of a job as the controller knows it; UNKNOWN when it has forgotten the job.

    Of an array: that of an element which has not ended, else of one that did not succeed.
    """
    done = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True)
    states = re.findall(r"JobState=(\S+)", done.stdout)
    going = [one for one in states if one not in FINAL_STATES]
    failed = [one for one in states if one != "COMPLETED"]
    return next(iter([*going, *failed, *states]), "UNKNOWN")


def job_end() -> float | None:
    """Unix time at which this Slurm job's time is up; None outside Slurm, or where it has no limit.

    Slurm 23.02 and newer say it in a variable, older controllers are asked.
    """
    number, told = job(), os.environ.get("SLURM_JOB_END_TIME", "")
    if told.isdigit():
        return float(told)
    if number is None or shutil.which("scontrol") is None:
        return None
    try:
        done = subprocess.run(["scontrol", "show", "job", "-o", number], capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        say(f"Slurm job {number}: the controller does not answer, so its end is not known; signals are still heeded")
        return None
    match = re.search(r"EndTime=(\d{4}-\d\d-\d\dT[\d:]+)", done.stdout)
    return time.mktime(time.strptime(match[1], "%Y-%m-%dT%H:%M:%S")) if match else None


def job() -> str | None:
    """The number of the Slurm job that this process belongs to."""
    return os.environ.get("SLURM_JOB_ID")


def requeue() -> None:
    """Put this Slurm job back into the queue; nothing outside Slurm.

    Not one that Slurm is ending already: somebody cancelled it, or it is preempted and Slurm requeues it by itself.
    """
    number = job()
    if number is None:
        return
    now = state(number)
    if now != "RUNNING":
        say(f"Slurm job {number}: not put back into the queue, since it is {now.lower()} already")
        return
    say(
        f"Slurm job {number}: going back into the queue"
    )  # before it is done: then this process may be ended any moment
    done = subprocess.run(["scontrol", "requeue", number], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        say(f"Slurm job {number}: not requeued ({done.stderr.strip()})")
