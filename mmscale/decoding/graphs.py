"""Decoding steps that are recorded once and then replayed, as CUDA graphs: a step of few tokens is many short kernels, and
starting each of them from Python costs time that a replay does not take.

A recording is of fixed memory and fixed shapes. A step of `count` sequences therefore runs as one of the next power of two
(the sequences that are missing write to free slots of the cache), and against a multiple of HELD_STEP held tokens (what lies
beyond a sequence's own is masked). Shapes that come up seldom are not recorded.
"""

from __future__ import annotations

import os
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mmscale.errors import UserError
from mmscale.models.key_value_cache import KeyValueCache, NewTokens
from mmscale.progress import say

HELD_STEP = 256
"""Tokens: few recordings a sequence, and at most so many keys read in vain. A guess, not measured."""
RECORD_AT = 3
"""Number of a shape's step that is recorded: one that comes up once or twice is not worth it. A guess, not measured."""

Forward = Callable[[Tensor, NewTokens], Tensor]
"""Token ids int64 [N] and their places -> logits [N, v]; writes into the cache."""


class GraphRecorder(Protocol):
    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """What repeats a step on the same memory and returns the same tensor, filled anew. RuntimeError where it cannot."""


class CudaGraphs:
    """Recordings of one model on one GPU, which share memory for what is intermediate."""

    def __init__(self) -> None:
        self._living: weakref.WeakSet[Any] = weakref.WeakSet()
        self._stream: Any = None

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        before = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()  # one: each new stream gets work space of its own, for good
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream), _waiting_refused():  # torch's notes on CUDA graphs: warm up beside
            step()
        before.wait_stream(self._stream)
        graph, random = torch.cuda.CUDAGraph(), torch.cuda.default_generators[torch.cuda.current_device()]
        kept = random.clone_state()
        # memory of recordings that are gone is gone with them, and torch takes its name no more
        pool = next((living.pool() for living in self._living), None)
        try:
            # other threads, such as NCCL's watchdog, may call the driver meanwhile
            with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
                out = step()
        except BaseException:  # torch leaves neither its stream nor its generator as they were
            torch.cuda.set_stream(before)
            random.graphsafe_set_state(kept)
            raise
        self._living.add(graph)

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """RuntimeError of what would wait for the device, as no recording can: one that is broken off leaves CUDA worse than this."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def recorder(device: torch.device) -> GraphRecorder | None:
    """What records steps on a device; None where nothing does. Raises UserError on an unknown MMSCALE_CUDA_GRAPHS."""
    wanted = os.environ.get("MMSCALE_CUDA_GRAPHS", "auto")
    if wanted not in ("auto", "off"):
        raise UserError(f"MMSCALE_CUDA_GRAPHS={wanted} is unknown: set auto or off")
    return CudaGraphs() if device.type == "cuda" and wanted == "auto" else None


@dataclass(frozen=True)
class _Recording:
    """A recorded step: the memory from which it reads tokens, their slots and their places, and how to run it."""

    tokens: Tensor
    owners: Tensor
    """Never looked at again, but were it given back, a replay would read what comes to lie there."""
    places: Tensor
    replay: Callable[[], Tensor]


class GraphRunner:
    """The steps of one model with one cache."""

    def __init__(self, forward: Forward, cache: KeyValueCache, recorder: GraphRecorder) -> None:
        self._forward, self.cache = forward, cache
        self._recorder: GraphRecorder | None = recorder
        self._seen: Counter[tuple[int, int, int]] = Counter()
        self._recordings: dict[tuple[int, int, int], _Recording] = {}
        self.recorded = 0
        """Steps recorded so far, which took longer than others."""

    def __call__(self, tokens_N: Tensor, new: NewTokens) -> Tensor:
        """Logits [N, v] of a step in which every running sequence gets the same number of tokens."""
        count = min(1 << (new.count - 1).bit_length(), self.cache.slots)
        held = min(-(-new.held // HELD_STEP) * HELD_STEP, self.cache.capacity)
        key = (count, tokens_N.shape[0] // new.count, held)
        self._seen[key] += 1
        recording = self._recordings.get(key)
        if recording is None and (self._recorder is None or self._seen[key] < RECORD_AT):
            return self._forward(tokens_N, new)
        tokens, places = (recording.tokens, recording.places) if recording else self._room(count * key[1])
        rows = tokens_N.shape[0]
        tokens[:rows], places[:rows] = tokens_N, new.places
        places[rows:] = 0  # of free slots
        recording = recording or self._record(key, tokens, places)
        if recording is None:
            return self._forward(tokens_N, new)
        return recording.replay()[:rows].clone()  # the next replay writes over it

    def _room(self, rows: int) -> tuple[Tensor, Tensor]:
        tokens, places = torch.zeros(2, rows, dtype=torch.int64, device=self.cache.device)
        return tokens, places

    def _record(self, key: tuple[int, int, int], tokens: Tensor, places: Tensor) -> _Recording | None:
        """None, and said, when this model cannot be recorded."""
        count, each, held = key
        owners = torch.arange(count, device=tokens.device).repeat_interleave(each)
        assert self._recorder is not None

        def step() -> Tensor:
            # new each time: what the layers share is made by the step itself, in every replay
            return self._forward(tokens, NewTokens(owners=owners, places=places, first=0, count=count, held=held))

        self.recorded += 1
        try:
            replay = self._recorder.record(step)
        except RuntimeError as error:
            say(f"decoding steps run unrecorded: {str(error).splitlines()[0]}")
            self._recorder = None
            return None
        self._recordings[key] = _Recording(tokens, owners, places, replay)
        return self._recordings[key]
