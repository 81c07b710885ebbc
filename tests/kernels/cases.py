"""Inputs and measures that the kernels' tests share, by PyTorch and under Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

ADAPTER_SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (47, 5, 3, 5, 7, 3),
    (0, 4, 1, 3, 2, 5),
    (5, 0, 0, 47, 123, 6),
    (123, 31, 9, 33, 65, 70),
]
"""(encoder states, tokens, boundaries, encoder width, hidden width, LLM width)"""


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory is full of what is no number: what a kernel does not write shows."""
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def far(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of what is right."""
    if not exact.numel():
        return 0.0
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def adapter_inputs(e: int, n: int, b: int, width: int, hidden: int, out: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(e + n + width)
    order = torch.randperm(e + n + b, generator=generator)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    weights = [values(hidden, width), values(hidden), values(out, hidden), values(out)]
    rows = [order[:n], order[n : n + e], order[n + e :]]
    return [values(e, width), *weights, values(out), values(n, out), *rows]


ROTARY_SHAPES = [(1, 4, 2, 7, 8, 1), (2, 9, 1, 5, 6, 2), (3, 1, 1, 1, 128, 1), (1, 3, 3, 0, 8, 1)]
"""(rows, heads of queries, of keys, tokens, head width, rows of cosines)"""


def rotary_inputs(b: int, h: int, k: int, t: int, d: int, rows: int, dtype: torch.dtype) -> list[Tensor]:
    """Queries as a projection lays them out, keys end to end; cosines and sines that are of no angle, all different."""
    generator = torch.Generator().manual_seed(h + t)

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return [values(b, t, h, d).transpose(1, 2), values(b, k, t, d), values(rows, t, d), values(rows, t, d)]


def rotated(function: Callable[..., tuple[Tensor, Tensor]], parts: Sequence[Tensor]) -> list[Tensor]:
    """Queries and keys that a function gives, and their gradients, for one upstream gradient of each."""
    query, key = (part.detach().requires_grad_() for part in parts[:2])
    out = function(query, key, *parts[2:])
    torch.manual_seed(3)
    upstream = [torch.randn(one.shape, dtype=torch.float64).to(one) for one in out]
    return [one.detach() for one in (*out, *torch.autograd.grad(out, (query, key), upstream))]


def with_gradients(function: Callable[..., Tensor], arguments: Sequence[Tensor]) -> list[Tensor]:
    """What a function gives, and the gradients of its floating-point arguments for one upstream gradient."""
    leaves = [a.detach().clone().requires_grad_() if a.is_floating_point() else a for a in arguments]
    merged = function(*leaves)
    torch.manual_seed(3)
    upstream = torch.randn(merged.shape, dtype=torch.float64).to(merged)
    return [merged.detach(), *torch.autograd.grad(merged, [a for a in leaves if a.is_floating_point()], upstream)]
