"""Expert and anti-expert side by side: two models of one shape, one after the other, as one batched product, on two streams.

What a decoding step spends its time on are the products of its layers. Of one layer of both models they are measured three
ways, inside a CUDA graph on a GPU.

Legend: M = 2 models, N rows, I in, O out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmscale.decoding.graphs import CudaGraphs

from .shapes import dtype_on

REPEATS = 20
Products = Callable[[Tensor, Tensor], Tensor]
"""Inputs [M, N, I] and weights [M, O, I] -> [M, N, O]."""


def one_after_another(x_MNI: Tensor, weight_MOI: Tensor) -> Tensor:
    return torch.stack([torch.nn.functional.linear(x, weight) for x, weight in zip(x_MNI, weight_MOI, strict=True)])


def batched(x_MNI: Tensor, weight_MOI: Tensor) -> Tensor:
    return torch.bmm(x_MNI, weight_MOI.transpose(1, 2))


def projections(shape: dict[str, Any]) -> list[tuple[int, int]]:
    """(out, in) of a layer's query, key, value, output, gate, up and down projections; every head has its own keys."""
    width, between = shape["hidden_size"], shape["intermediate_size"]
    return [*[(width, width)] * 4, *[(between, width)] * 2, (width, between)]


@torch.inference_mode()
def measure_pair(shape: dict[str, Any], device: torch.device, rows: Sequence[int]) -> list[dict[str, Any]]:
    """Seconds of a layer's products of two models by each way, and times the first way; RuntimeError where they differ."""
    dtype = dtype_on(device)
    weights = [torch.randn(2, out, into, device=device, dtype=dtype) / into**0.5 for out, into in projections(shape)]
    found = []
    for count in rows:
        wide = {into: torch.randn(2, count, into, device=device, dtype=dtype) for _, into in projections(shape)}
        inputs = [wide[weight.shape[2]] for weight in weights]
        _require_alike(inputs[0], weights[0])
        seconds = {name: _seconds(work, device) for name, work in _ways(inputs, weights, device).items()}
        first = next(iter(seconds.values()))
        found.append({"rows": count, "seconds": seconds, "times_as_fast": {n: first / s for n, s in seconds.items()}})
    return found


def _ways(inputs: list[Tensor], weights: list[Tensor], device: torch.device) -> dict[str, Callable[[], Tensor]]:
    def of_model(model: int) -> list[Tensor]:
        return [torch.nn.functional.linear(x[model], w[model]) for x, w in zip(inputs, weights, strict=True)]

    def in_turn() -> Tensor:
        of_model(0)
        return of_model(1)[-1]

    def as_one() -> Tensor:
        return [batched(x, weight) for x, weight in zip(inputs, weights, strict=True)][-1]

    ways = {"one after another": in_turn, "one batched product": as_one}
    if device.type == "cuda":
        beside = torch.cuda.Stream()

        def at_once() -> Tensor:
            here = torch.cuda.current_stream()
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                kept = of_model(0)
            out = of_model(1)[-1]
            here.wait_stream(beside)
            del kept  # not before both are done
            return out

        ways["two streams"] = at_once
    return ways


def _require_alike(x_MNI: Tensor, weight_MOI: Tensor) -> None:
    right = torch.bmm(x_MNI.double(), weight_MOI.double().transpose(1, 2))
    for way in (one_after_another, batched):
        far = float((way(x_MNI, weight_MOI) - right).norm() / right.norm())
        # the result is rounded once, by eps / 2 at most; sums in float32 add little
        if not far <= torch.finfo(x_MNI.dtype).eps * (1 if x_MNI.dtype.itemsize == 2 else x_MNI.shape[2] ** 0.5):
            raise RuntimeError(f"{way.__name__}: the product is off by {far:.1e}")


def _seconds(work: Callable[[], Tensor], device: torch.device) -> float:
    if device.type != "cuda":
        work()
        begin = time.perf_counter()
        for _ in range(REPEATS):
            work()
        return (time.perf_counter() - begin) / REPEATS
    replay = CudaGraphs().record(work)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    for _ in range(REPEATS):
        replay()
    marks[0].record()
    for _ in range(REPEATS):
        replay()
    marks[1].record()
    marks[1].synchronize()
    return marks[0].elapsed_time(marks[1]) / 1000 / REPEATS
