"""Decoding steps that are recorded once and then replayed, as CUDA graphs: a step of few tokens is many short kernels, and
starting each of them from Python costs time that a replay does not take. No GPU has run it yet.

A recording is of fixed memory and fixed shapes. A step of `count` sequences therefore runs as one of the next power of two
(the sequences that are missing write to free slots of the cache), and against a multiple of HELD_STEP held tokens (what lies
beyond a sequence's own is masked). Shapes that come up seldom are not recorded.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
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
        self._pool: Any = None

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        beside = torch.cuda.Stream()  # torch's notes on CUDA graphs: warm up on a stream of its own
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        # other threads, such as NCCL's watchdog, may call the driver meanwhile
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            out = step()
        self._pool = graph.pool()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def recorder(device: torch.device) -> GraphRecorder | None:
    """What records steps on a device; None where nothing does. Raises UserError on an unknown MMSCALE_CUDA_GRAPHS."""
    wanted = os.environ.get("MMSCALE_CUDA_GRAPHS", "auto")
    if wanted not in ("auto", "off"):
        raise UserError(f"MMSCALE_CUDA_GRAPHS={wanted} is unknown: set auto or off")
    return CudaGraphs() if device.type == "cuda" and wanted == "auto" else None


@dataclass(frozen=True)
class _Recording:
    """A recorded step: the memory from which it reads tokens and their places, and how to run it."""

    tokens: Tensor
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
        self._recordings[key] = _Recording(tokens, places, replay)
        return self._recordings[key]
