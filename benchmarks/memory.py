"""Peak memory of a piece of work, beyond what was there before it."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

OUT_OF_MEMORY = "out of memory"
"""What stands in a table for something that did not fit."""


def peak_bytes(work: Callable[[], object]) -> int:
    """Bytes that torch's allocator handed out at most: on the GPU where there is one, else on the CPU."""
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None
    events = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def release() -> None:
    """Give back what nothing holds any more; call it outside of an `except`, whose traceback holds what a failed step made."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
