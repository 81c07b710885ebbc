"""One thread that decodes for all clients: requests come and go while it runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mmscale.answering.local import LoadedModels
from mmscale.decoding.engine import DecodingEngine, GenerationRequest, SequenceState
from mmscale.decoding.ensemble import Logits
from mmscale.decoding.scoring import ScoredToken, score_prompt
from mmscale.decoding.speculation import DraftLengthController
from mmscale.progress import say


@dataclass(frozen=True, kw_only=True)
class Progress:
    """New tokens of a request, since the last of these."""

    token_ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    likeliest: tuple[dict[int, float], ...] = ()
    """The likeliest tokens at each place and their log-probabilities, as many as asked for."""
    finished: bool = False
    ended: bool = False
    """By itself, rather than by its number of tokens."""
    failure: str = ""
    """What broke, where decoding did."""
    prompt: tuple[ScoredToken, ...] = ()
    """The prompt's own tokens, where they were asked for; once, before the rest."""


@dataclass(eq=False, kw_only=True)
class GenerationJob:
    """A request of a client, and where its tokens go."""

    request: GenerationRequest
    send: Callable[[Progress], None]
    alternatives: int = 0
    """Likeliest tokens to report at each place."""
    scores_prompt: bool = False
    """Whether to report the log-probabilities of the prompt's tokens."""
    only_prompt: bool = False
    """Whether nothing is to come after the prompt."""
    sent: list[int] = field(default_factory=list)
    """Tokens that were reported."""
    likeliest: list[dict[int, float]] = field(default_factory=list)


class Busy(Exception):
    """So many requests wait that another one would wait too long."""


class Worker:
    """Runs an engine; `submit` and `cancel` may be called from any thread.

    Should a step fail, the requests that ran are run again one by one, and only one that fails by itself is given up.
    Should the engine itself be gone, every request is told, `failure` says why, and `on_failure` is called.
    """

    def __init__(self, solver: LoadedModels, slots: int, capacity: int, most_waiting: int) -> None:
        self.solver, self.most_waiting = solver, most_waiting
        self.draft_length = DraftLengthController(solver.ensemble.device, solver.draft_tokens)
        self._slots, self._capacity = slots, capacity
        self._engine = self._fresh()
        self._changed = threading.Condition()
        self._new: deque[GenerationJob] = deque()
        self._cancelled: deque[GenerationJob] = deque()
        self._jobs: dict[GenerationRequest, GenerationJob] = {}
        self._stopping = False
        self.failure = ""
        """Why nothing is decoded any more; empty while it is."""
        self.on_failure: Callable[[], None] = lambda: None
        self.tokens = 0
        """Made since the start."""
        self._stepped = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="mmscale decoding", daemon=True)

    def _fresh(self) -> DecodingEngine:
        return DecodingEngine(self.solver.ensemble, self._slots, self._capacity, self.draft_length, self._observe)

    def start(self) -> None:
        self._thread.start()

    def submit(self, jobs: list[GenerationJob]) -> None:
        """Queue jobs that belong together. Raises Busy when there is no room for all of them."""
        with self._changed:
            held = len(self._jobs) + len(self._new)
            if self._stopping or held + len(jobs) > self._slots + self.most_waiting:
                raise Busy
            self._new += jobs
            self._changed.notify()

    def cancel(self, job: GenerationJob) -> None:
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

    def break_off(self) -> None:
        """End every request at once, unfinished; for a server that may wait no longer."""
        with self._changed:
            self._stopping = True
            jobs = [*self._jobs.values(), *self._new]
            self._cancelled += jobs
            self._changed.notify()
        for job in jobs:
            job.send(Progress(finished=True, failure="the server was stopped"))

    def counts(self) -> dict[str, int]:
        with self._changed:
            running = len(self._engine.running)
            return {"running": running, "waiting": len(self._jobs) + len(self._new) - running, "slots": self._slots}

    @property
    def seconds_since_step(self) -> float:
        """How long the step that runs now has taken; 0 while nothing is to do."""
        return time.monotonic() - self._stepped if self._engine.busy else 0.0

    def _observe(self, one: SequenceState, number: int, logits: Logits) -> None:
        job = self._jobs[one.request]
        if job.alternatives and number >= len(job.sent):
            row = self.solver.ensemble.combined(logits)[0].log_softmax(-1)
            best = torch.topk(row, min(job.alternatives, row.shape[0]))
            job.likeliest.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))

    def _run(self) -> None:
        try:
            while self._take():
                self._step()
        except BaseException as error:
            self._die(error)
            raise

    def _step(self) -> None:
        try:
            for one in self._engine.step():
                self._report(one)
        except Exception as error:
            say(f"decoding failed ({_told(error)}): its requests are run again one by one")
            suspects = list(self._jobs.values())
            self._engine = self._fresh()
            for job in suspects:
                self._alone(job)
        self._stepped = time.monotonic()

    def _alone(self, job: GenerationJob) -> None:
        """A request by itself, from its beginning; what was sent of it is not sent again."""
        job.likeliest.clear()
        try:
            self._engine.add(job.request)
            while self._engine.busy and job not in self._cancelled:
                for one in self._engine.step():
                    self._report(one)
            self._engine.drop(job.request)
        except Exception as error:
            self._engine = self._fresh()
            self._give_up(job, error)

    def _give_up(self, job: GenerationJob, error: Exception) -> None:
        say(f"a request failed: {_told(error)}")
        with self._changed:
            self._jobs.pop(job.request, None)
        job.send(Progress(finished=True, failure=_told(error)))

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
            new = list(self._new)
            self._jobs.update({job.request: job for job in new})
            self._new.clear()
            self._stepped = time.monotonic()
        for job in new:
            self._begin(job)
        return self._engine.busy or not self._stopping

    def _begin(self, job: GenerationJob) -> None:
        """Score a prompt where that is asked for, and let the engine know of the request."""
        try:
            if job.scores_prompt:
                scores = score_prompt(self.solver.ensemble, job.request.prompts, job.alternatives)
                job.send(Progress(prompt=tuple(scores)))
            if job.only_prompt:
                with self._changed:
                    self._jobs.pop(job.request, None)
                job.send(Progress(finished=True))
            else:
                self._engine.add(job.request)
        except Exception as error:
            self._give_up(job, error)

    def _report(self, one: SequenceState) -> None:
        job = self._jobs[one.request]
        held = len(job.sent)
        if job.sent != one.token_ids[:held] and len(one.token_ids) >= held:
            raise RuntimeError("run again, the answer came out otherwise than what was sent of it already")
        ids, values = tuple(one.token_ids[held:]), tuple(one.log_probabilities[held:])
        likeliest, job.likeliest = tuple(job.likeliest), []
        job.sent += ids
        self.tokens += len(ids)
        if one.finished:
            with self._changed:
                self._jobs.pop(one.request, None)
        if ids or one.finished:
            job.send(
                Progress(
                    token_ids=ids, log_probabilities=values, likeliest=likeliest, finished=one.finished, ended=one.ended
                )
            )

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._stopping, self.failure = True, _told(error)
            jobs = [*self._jobs.values(), *self._new]
        for job in jobs:
            job.send(Progress(finished=True, failure=self.failure))
        self.on_failure()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def sender(loop: asyncio.AbstractEventLoop, queue: asyncio.Queue[Progress]) -> Callable[[Progress], None]:
    """Puts progress into a queue of an event loop, from the worker's thread; a loop that is closed wants none."""

    def send(progress: Progress) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(queue.put_nowait, progress)

    return send
