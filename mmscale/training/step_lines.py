"""What a training stage says about itself while nobody watches a bar: one line per `log_every_steps`."""

from __future__ import annotations

import datetime
import resource
import sys

import torch

from mmscale import logs
from mmscale.progress import console, say


class StepLines:
    """Rate and time left, over the steps since the last line."""

    def __init__(self, title: str, total_steps: int, device: torch.device) -> None:
        self._title, self._total, self._device = title, total_steps, device
        self._steps, self._tokens, self._seconds = 0, 0.0, 0.0

    def add(self, tokens: float, seconds: float) -> None:
        """One step: tokens of all ranks, seconds of this one."""
        self._steps += 1
        self._tokens += tokens
        self._seconds += seconds

    def tell(self, step: int, loss: float, learning_rate: float) -> None:
        """To the log, and to the terminal where no bar shows the same."""
        left = datetime.timedelta(seconds=round(self._seconds / self._steps * (self._total - step)))
        text = (
            f"{self._title}: step {step} of {self._total}, loss {loss:.4f}, learning rate {learning_rate:.2e}, "
            f"{self._tokens / self._seconds:,.0f} tokens/s, ETA {left}, memory {peak_memory(self._device) / 2**30:.2f} GiB"
        )
        (logs.note if console.is_terminal and sys.stdout.isatty() else say)(text)
        self._steps, self._tokens, self._seconds = 0, 0.0, 0.0


def peak_memory(device: torch.device) -> int:
    """Most bytes that were in use at once: on a GPU of torch's tensors there, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
