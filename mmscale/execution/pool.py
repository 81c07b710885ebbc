"""Many programs at once: a few sandboxes, fed by threads and kept for the next batch."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import queue
import threading
from collections.abc import Sequence

from mmscale.config.execution import ExecutionConfig
from mmscale.errors import UserError
from mmscale.execution.outcome import Outcome
from mmscale.execution.sandbox import Sandbox, uses_packages
from mmscale.progress import say

_LOCAL_RANKS = ("LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")
"""What torchrun, Open MPI and MPICH call the number of processes on a machine."""

_Task = tuple[int, str, "queue.Queue[tuple[int, Outcome | Exception]]"]


class Pool:
    """Sandboxes that wait for programs. A context: leaving it ends them."""

    def __init__(self, config: ExecutionConfig) -> None:
        """UserError where programs cannot be run; with `isolation: none` a warning each time."""
        self.config = config
        if config.isolation == "none":
            say(
                "warning: execution.isolation is none: programs that a model wrote run as you, and can read whatever you can"
            )
        self.workers = config.workers or processors()
        self._tasks: queue.Queue[_Task | None] = queue.Queue()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, programs: Sequence[str]) -> list[Outcome]:
        """The outcome of each, in their order; UserError where there is no sandbox to be had."""
        done: queue.Queue[tuple[int, Outcome | Exception]] = queue.Queue()
        while len(self._threads) < min(self.workers, len(programs)):
            thread = threading.Thread(target=self._work, daemon=True)
            thread.start()
            self._threads.append(thread)
        for index, code in enumerate(programs):
            self._tasks.put((index, code, done))
        outcomes: dict[int, Outcome] = {}
        problem: Exception | None = None
        for _ in programs:
            index, outcome = done.get()
            if isinstance(outcome, Outcome):
                outcomes[index] = outcome
            else:
                problem = outcome
        if problem is not None:
            raise problem
        return [outcomes[index] for index in range(len(programs))]

    def close(self) -> None:
        """End every sandbox, behind the program that it runs; those that wait are given up."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._tasks.get_nowait()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _work(self) -> None:
        """A worker's thread, with a sandbox for programs that use packages and one for the others: bubblewrap ends with the
        thread that started it, so this one starts and feeds them to the end."""
        sandboxes: dict[bool, Sandbox] = {}
        failed: Exception | None = None
        while (task := self._tasks.get()) is not None:
            index, code, done = task
            try:
                if failed is not None:
                    raise failed
                packages = uses_packages(code)
                if packages not in sandboxes:
                    sandboxes[packages] = Sandbox(self.config, packages)
                done.put((index, sandboxes[packages].run(code)))
            except Exception as error:  # told by whoever asked
                failed = error
                done.put((index, error))
        for sandbox in sandboxes.values():
            sandbox.stop()


def processors() -> int:
    """Those that this process may use, shared with the other ranks of its machine."""
    usable = len(os.sched_getaffinity(0))
    if (of_task := os.environ.get("SLURM_CPUS_PER_TASK", "")).isdigit():  # whether or not Slurm binds tasks to theirs
        return max(1, min(usable, int(of_task)))
    local = next((int(value) for name in _LOCAL_RANKS if (value := os.environ.get(name, "")).isdigit()), 1)
    return max(1, usable // max(1, local))


def why_not(config: ExecutionConfig | None = None) -> str | None:
    """Why programs cannot be run in isolation here, in a sentence; None where they can, which is tried."""
    try:
        with Pool((config or ExecutionConfig()).model_copy(update={"workers": 1})) as pool:
            outcome = pool.run(["print(6 * 7)"])[0]
    except UserError as error:
        return str(error)
    return (
        None if outcome.value == "42\n" else f"a program that prints 42 gave {outcome.failure or outcome.value!r:.80}"
    )


@functools.cache
def shared(config: ExecutionConfig) -> Pool:
    """One pool of this process for a configuration, kept until the process ends."""
    pool = Pool(config)
    atexit.register(pool.close)
    return pool
