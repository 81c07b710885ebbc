"""Seconds of several ways of doing the same work, which take turns, so that what else the machine does hits all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

Work = Callable[[], object]
QUEUED_SECONDS = 5e-3
"""Work that is queued on a GPU per turn: starting a single short call would be timed, not the call."""
MOST_QUEUED = 50


def seconds(ways: Mapping[str, Work], runs: int) -> dict[str, float]:
    """Median seconds per call of each way: by events in a GPU's queue, which calls fill one after another as in a training
    step, or by the clock on a CPU.
    """
    turn = _queued if torch.cuda.is_available() else _timed
    calls = {name: max(1, min(MOST_QUEUED, int(QUEUED_SECONDS / max(_warm(way), 1e-9)))) for name, way in ways.items()}
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            took[name].append(turn(way, calls[name]))
    return {name: statistics.median(values) for name, values in took.items()}


def _warm(way: Work) -> float:
    """Seconds of a second call: the first may compile."""
    way()
    return (_queued if torch.cuda.is_available() else _timed)(way, 1)


def _queued(way: Work, calls: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        way()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def _timed(way: Work, calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        way()
    return (time.perf_counter() - begin) / calls
