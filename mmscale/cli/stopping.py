"""What a signal does to a command: files are left whole, one sentence is said, and the exit code is 128 + its number."""

from __future__ import annotations

import os
import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "SLURM_STEP_NUM_TASKS")


class Stopped(BaseException):
    """A signal came; everything on the way out cleans up. Nothing that handles errors takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number
        self.sentence = f"stopped by {signal.Signals(number).name}; the same command goes on from what is saved"


def watch() -> None:
    """Raise Stopped where a signal comes; a second one ends the process at once.

    One that is ignored stays so (nohup). Of several ranks each ends where it is, as a launcher expects that takes one down
    because another has failed: it may wait for that one inside of a collective, where no handler of Python's is run.
    """
    several = any(os.environ.get(name, "1") != "1" for name in _SIZES)
    for number in (signal.SIGINT,) if several else _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def leave_alone() -> None:
    """The work is done, and its exit code known."""
    for number in _SIGNALS:
        if signal.getsignal(number) == _stop:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, _: FrameType | None) -> None:
    leave_alone()
    raise Stopped(number)
