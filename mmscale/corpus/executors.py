"""Where the tasks of a step run: on this machine, as an array of Slurm jobs, on Ray. datatrove starts them and counts what ended."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import multiprocess
from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from mmscale.config.cluster import ClusterConfig
from mmscale.errors import UserError
from mmscale.parallel import slurm
from mmscale.progress import bar, say
from mmscale.storage.files import require_folder, write_json
from mmscale.storage.reading import read_json_object

_JOB = "job.json"
_ERROR = re.compile(r"^mmscale\.errors\.\w+: (.+)$", re.MULTILINE)
_FORGOTTEN = 24
"""Times in a row that a controller has to know nothing of a job before it is taken for ended: one that restarts answers nothing."""
_LONGEST_ARRAY = 1001
"""Slurm's own limit, MaxArraySize, where nobody has raised it; datatrove submits more tasks than that in several arrays."""


@dataclass(frozen=True, kw_only=True)
class Tasks:
    """One step of a corpus, to be run in a number of tasks that share its work."""

    step: PipelineStep
    count: int
    logs: Path
    """Folder of datatrove's notes and logs, which every task can write to."""
    work: str
    """Digest of what decides the work: jobs of another one are not waited for."""
    gpu: bool = False
    """Whether a task computes on a GPU where there is one."""


class Executor(Protocol):
    """Runs all tasks of a step and returns when all have ended; UserError with a task's own sentence where one failed."""

    def run(self, tasks: Tasks) -> None: ...


@dataclass(frozen=True)
class Here:
    """Tasks as processes of this machine."""

    workers: int
    """Tasks at the same time."""

    def run(self, tasks: Tasks) -> None:
        require_folder(tasks.logs)
        # a fork would hold our lock of the folder, and datatrove's manager outlives a killed command
        multiprocess.set_start_method("forkserver", force=True)
        LocalPipelineExecutor(
            [tasks.step],
            tasks=tasks.count,
            workers=min(tasks.count, self.workers),
            logging_dir=str(tasks.logs),
            skip_completed=False,
        ).run()


@dataclass(frozen=True)
class OnRay:
    """Tasks on a Ray cluster, which sees the folder of the corpus too; a task whose worker dies is run again."""

    address: str
    """What `ray.init` connects to: HOST:PORT, ray://HOST:PORT, auto."""

    def run(self, tasks: Tasks) -> None:
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError("ray is not installed: pip install 'mmscale[corpus,ray]'") from error
        with contextlib.ExitStack() as after:
            try:
                self._require_answer()
                ray.init(address=self.address, log_to_driver=False, configure_logging=False)
            except (OSError, ValueError, RuntimeError) as error:
                raise UserError(
                    f"no Ray cluster answers at {self.address}: start one by `ray start --head`, or correct --ray"
                ) from error
            after.callback(ray.shutdown)
            _emptied(tasks.logs)
            on_gpu = tasks.gpu and ray.cluster_resources().get("GPU", 0) > 0
            executor = RayPipelineExecutor(
                [tasks.step],
                tasks=tasks.count,
                logging_dir=str(tasks.logs),
                skip_completed=False,
                gpus_per_task=int(on_gpu),
            )
            executor.run()
        _require_all(executor, tasks, "logs/task_{:05d}.log")

    def _require_answer(self) -> None:
        """OSError where nobody listens; Ray itself would try again for minutes."""
        host, colon, port = self.address.removeprefix("ray://").rpartition(":")
        if colon:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Array(SlurmPipelineExecutor):
    """datatrove's array of Slurm jobs, with the batch script that all our jobs have."""

    def __init__(self, tasks: Tasks, cluster: ClusterConfig) -> None:
        super().__init__(
            [tasks.step],
            tasks=tasks.count,
            workers=cluster.nodes * cluster.ranks_on_node,
            time=cluster.tasks.time or cluster.time,
            partition=cluster.tasks.partition or cluster.partition or "",
            job_name=f"mmscale-corpus-{type(tasks.step).__name__}",
            logging_dir=str(tasks.logs),
            skip_completed=False,
            max_array_size=_LONGEST_ARRAY,
        )
        self.cluster, self.gpu = cluster, tasks.gpu

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        """The batch script of an element; `run_script` of datatrove names the pickle last."""
        return slurm.render(
            "tasks",
            self.cluster,
            job_name=self.job_name,
            log=Path(self.slurm_logs_folder) / "%a.log",
            directory=Path.cwd(),
            folder=Path(self.slurm_logs_folder),
            elements=sbatch_args["array"],
            gpu=self.gpu and self.cluster.gpus_per_node > 0,
            pickle=run_script.rpartition(" ")[2],
        )

    def launch_merge_stats(self) -> None:
        """datatrove would submit a job for a summary that nobody reads."""


@dataclass(frozen=True)
class OnSlurm:
    """Tasks as an array of Slurm jobs, one task per element; a node that dies gives its elements back to the queue."""

    cluster: ClusterConfig
    every_seconds: float = 5.0
    """How often the controller is asked."""

    def run(self, tasks: Tasks) -> None:
        executor = _Array(tasks, self.cluster)
        number = self._going(tasks) or self._submitted(executor, tasks)
        try:
            self._wait(executor, tasks, number)
        except BaseException:
            say(f"job {number} goes on without this; the same command waits for it again, `scancel {number}` ends it")
            raise
        _require_all(executor, tasks, "slurm_logs/{}.log")

    def _going(self, tasks: Tasks) -> str | None:
        """The number of a job that does this work already, submitted by a command that did not stay."""
        note = tasks.logs / _JOB
        if not note.is_file():
            return None
        held = read_json_object(note, "remove it once no job of this corpus is in the queue")
        number = str(held["job"])
        if slurm.state(number) in slurm.FINAL_STATES | {"UNKNOWN"}:
            return None
        if held["work"] != tasks.work:
            raise UserError(
                f"job {number} still works in {tasks.logs} with other settings: wait for it, or end it by `scancel {number}`"
            )
        say(f"job {number} does this already: waiting for it")
        return number

    def _submitted(self, executor: _Array, tasks: Tasks) -> str:
        _emptied(tasks.logs)
        try:
            executor.launch_job()
        except FileNotFoundError as error:
            raise UserError("sbatch is not on this machine: run this on a login node of the cluster") from error
        except subprocess.CalledProcessError as error:
            raise UserError(
                f"Slurm refused {tasks.logs / 'launch_script.slurm'}: correct the cluster file, which it is made from"
            ) from error
        number = str(executor.job_id)
        write_json(tasks.logs / _JOB, {"job": number, "work": tasks.work})
        say(f"{tasks.count} tasks: job {number}, logs in {tasks.logs / 'slurm_logs'}")
        return number

    def _wait(self, executor: _Array, tasks: Tasks, number: str) -> None:
        done = unknown = 0
        with bar(executor.job_name, tasks.count) as progress:
            while (state := slurm.state(number)) not in slurm.FINAL_STATES and unknown < _FORGOTTEN:
                unknown = unknown + 1 if state == "UNKNOWN" else 0
                ended = tasks.count - len(_open(executor))
                progress.advance(ended - done, note=state)
                done = ended
                time.sleep(self.every_seconds)


def _emptied(folder: Path) -> None:
    """No mark of a task that ended in another run may be left."""
    if folder.is_dir():
        shutil.rmtree(folder)
    require_folder(folder)


def _open(executor: Any) -> list[int]:
    """Tasks that have not ended well."""
    left: list[int] = executor.get_incomplete_ranks(skip_completed=True)
    return left


def _require_all(executor: Any, tasks: Tasks, log: str) -> None:
    """UserError with what the first failed task said."""
    left = _open(executor)
    if not left:
        return
    file = tasks.logs / log.format(left[0])
    said = _ERROR.findall(file.read_text(encoding="utf-8", errors="replace")) if file.is_file() else []
    why = said[-1] if said else f"see {file}"
    raise UserError(f"{len(left)} of {tasks.count} tasks did not end: {why}; the same command goes on")


def executor(workers: int, cluster: ClusterConfig | None, ray: str | None) -> Executor:
    """The one that the command line asks for; UserError where it names two."""
    if cluster is not None and ray is not None:
        raise UserError("tasks run on a Slurm cluster or on Ray: give --cluster or --ray, not both")
    if cluster is not None:
        return OnSlurm(cluster)
    return OnRay(ray) if ray is not None else Here(workers)
