"""One thread that decodes for all clients: requests come and go while it runs."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mmscale.decoding.engine import Engine, Request, Running
from mmscale.decoding.ensemble import Logits
from mmscale.decoding.pace import Pace
from mmscale.evaluation.solving import Solver


@dataclass(frozen=True)
class Progress:
    """New tokens of a request, since the last of these."""

    token_ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    likeliest: tuple[dict[int, float], ...] = ()
    """Of each token's place, the likeliest tokens and their log-probabilities, as many as asked for."""
    finished: bool = False
    ended: bool = False
    """By itself, rather than by its number of tokens."""
    failure: str = ""
    """What broke, where decoding did."""


@dataclass(eq=False)
class Job:
    """A request of a client, and where its tokens go."""

    request: Request
    send: Callable[[Progress], None]
    alternatives: int = 0
    """Likeliest tokens to report at each place."""
    sent: int = 0
    likeliest: list[dict[int, float]] = field(default_factory=list)


class Busy(Exception):
    """So many requests wait that another one would wait too long."""


class Worker:
    """Runs an engine; `submit` and `cancel` may be called from any thread."""

    def __init__(self, solver: Solver, slots: int, capacity: int, most_waiting: int) -> None:
        self.solver, self.most_waiting = solver, most_waiting
        self.pace = Pace(solver.ensemble.device, solver.draft_tokens)
        self._engine = Engine(solver.ensemble, slots, capacity, self.pace, self._observe)
        self._slots = slots
        self._changed = threading.Condition()
        self._new: deque[Job] = deque()
        self._cancelled: deque[Job] = deque()
        self._jobs: dict[Request, Job] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="mmscale decoding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: list[Job]) -> None:
        """Queue jobs that belong together. Raises Busy when there is no room for all of them."""
        with self._changed:
            held = len(self._jobs) + len(self._new)
            if self._stopping or held + len(jobs) > self._slots + self.most_waiting:
                raise Busy
            self._new += jobs
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Forget a job, done or not; its slot is free in the next round."""
        with self._changed:
            self._cancelled.append(job)
            self._changed.notify()

    def stop(self, timeout_s: float) -> None:
        """Take no more jobs, finish those that run if they do within the time."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def counts(self) -> dict[str, int]:
        with self._changed:
            running = len(self._engine.running)
            return {"running": running, "waiting": len(self._jobs) + len(self._new) - running, "slots": self._slots}

    def _observe(self, one: Running, number: int, logits: Logits) -> None:
        job = self._jobs[one.request]
        if job.alternatives:
            row = self.solver.ensemble.combined(logits)[0].log_softmax(-1)
            best = torch.topk(row, job.alternatives)
            job.likeliest.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))

    def _run(self) -> None:
        while self._take():
            try:
                for one in self._engine.step():
                    self._report(one)
            except Exception as error:  # clients are told, and the process says it too: the thread may not die silently
                self._fail(f"{type(error).__name__}: {error}")
                raise

    def _take(self) -> bool:
        """Wait for work, let jobs in and out; whether to go on."""
        with self._changed:
            while not (self._new or self._cancelled or self._engine.busy or self._stopping):
                self._changed.wait()
            while self._cancelled:
                job = self._cancelled.popleft()
                if job in self._new:
                    self._new.remove(job)
                if self._jobs.pop(job.request, None) is not None:
                    self._engine.drop(job.request)
            while self._new:
                job = self._new.popleft()
                self._jobs[job.request] = job
                self._engine.add(job.request)
            return self._engine.busy or not self._stopping

    def _report(self, one: Running) -> None:
        job = self._jobs[one.request]
        new = slice(job.sent, len(one.token_ids))
        job.sent = len(one.token_ids)
        likeliest, job.likeliest = tuple(job.likeliest), []
        ids, values = tuple(one.token_ids[new]), tuple(one.log_probabilities[new])
        if one.finished:
            with self._changed:
                self._jobs.pop(one.request, None)
        job.send(Progress(ids, values, likeliest, one.finished, one.ended))

    def _fail(self, why: str) -> None:
        with self._changed:
            self._stopping = True
            jobs = [*self._jobs.values(), *self._new]
        for job in jobs:
            job.send(Progress(finished=True, failure=why))


def sender(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Progress]) -> Callable[[Progress], None]:
    """Puts progress into a queue of an event loop, from the worker's thread; a loop that is closed wants none."""

    def send(progress: Progress) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, progress)

    return send
