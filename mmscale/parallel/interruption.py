"""Stopping in time: signals, the end of the allocation and hangs, seen by all ranks at the same step."""

from __future__ import annotations

import faulthandler
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from mmscale.config.parallel import InterruptionConfig
from mmscale.parallel import slurm
from mmscale.parallel.context import ParallelContext

SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP)
"""What schedulers send before they take the nodes away, and what comes when a terminal goes (not under nohup)."""
_STANDARD_ERROR = 2
"""The descriptor itself: sys.stderr may be something that has none."""


def deadline(config: InterruptionConfig, started: float, job_end: float | None) -> float | None:
    """Unix time at which training has to stop, or None: the earlier of our own limit and the Slurm job's end."""
    ends = []
    if config.wall_clock_minutes is not None:
        ends.append(started + 60 * config.wall_clock_minutes)
    if job_end is not None:
        ends.append(job_end - 60 * config.minutes_before_job_end)
    return min(ends) if ends else None


class Interruption:
    """Handlers of one stage or evaluation, in place while it runs. Signals may come twice, and to some ranks alone."""

    def __init__(self, config: InterruptionConfig, context: ParallelContext) -> None:
        self._config, self._context = config, context
        # one rank asks the controller; what it knows all agree on
        self._deadline = deadline(config, time.time(), slurm.job_end() if context.is_first else None)
        self._received = 0
        self.signal = 0
        """Number of the one that all ranks agreed to stop by."""
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():  # Python delivers signals to it alone
            for number in SIGNALS:
                if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                    continue  # started by nohup: to go on without a terminal
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self._received = number

    def watch(self) -> None:
        """Something is about to start that must end within `hang_minutes`, or this rank writes its stacks and dies."""
        faulthandler.dump_traceback_later(60 * self._config.hang_minutes, exit=True, file=_STANDARD_ERROR)

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.time() >= self._deadline

    @property
    def noted(self) -> bool:
        """Whether this rank knows a reason; it does what all do together first, then all ask for the `reason`."""
        return bool(self._received) or self._late

    def reason(self) -> str | None:
        """Why all ranks should stop now; every rank asks, and all get the same answer."""
        codes = self._context.maximum([float(self._received), float(self._late)])
        if codes[0]:
            self.signal = int(codes[0])
            return f"signal {signal.Signals(self.signal).name}"
        return "the time limit" if codes[1] else None
