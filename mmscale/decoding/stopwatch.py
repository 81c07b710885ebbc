"""How long a device was busy with something: its queue is marked, and nobody waits for the marks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class _Now:
    """A mark where computing is waited for anyway."""

    seconds: float

    def seconds_to(self, later: _Now) -> float:
        return later.seconds - self.seconds


class _Queued:
    """A mark in the queue of a device."""

    def __init__(self, event: Any) -> None:
        self._event = event
        event.record()

    def seconds_to(self, later: _Queued) -> float:
        """Waits for the later one, where it has not passed yet."""
        later._event.synchronize()
        return float(self._event.elapsed_time(later._event)) / 1000


def marks(device: torch.device) -> Callable[[], Any]:
    """What makes a mark in a device's queue; `begin.seconds_to(end)` is the time between two."""
    if device.type == "cpu":
        return lambda: _Now(time.perf_counter())
    event = torch.get_device_module(device).Event
    return lambda: _Queued(event(enable_timing=True))
