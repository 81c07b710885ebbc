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
CALLS_PER_GRAPH = 10


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


def graph_seconds(way: Work, runs: int) -> float | None:
    """Median seconds per call inside a CUDA graph that is replayed: the device's own time, without what starting kernels
    takes of the processor. None without a GPU.

    Raises RuntimeError where the call cannot be captured, for instance because it waits for the device. Autograd's work
    runs on threads of its own: only calls without it are meant.
    """
    if not torch.cuda.is_available():
        return None
    usual, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(usual)
    with torch.cuda.stream(side):
        for _ in range(3):
            way()
    usual.wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(CALLS_PER_GRAPH):
                way()
    finally:
        torch.cuda.set_stream(usual)  # a capture that fails leaves its own in place
    graph.replay()
    return statistics.median(_queued(graph.replay, 2) / CALLS_PER_GRAPH for _ in range(runs))


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
