"""Logits and draws that the tests of proxy_logits share, and the choice they should lead to, from the definition."""

from __future__ import annotations

import torch
from mmscale_kernels import Draws, Parts
from mmscale_kernels.noise import gumbel
from torch import Tensor

SETTINGS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.3, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 0.9, "top_k": 9, "top_p": 0.5, "min_p": 0.05},
]


def draws(count: int, seed: int = 7, first_row: int = 0, device: str = "cpu", **settings: float) -> Draws:
    """`count` rows of one setting; rows first_row, first_row + 1, ... at position 3."""
    one = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **settings}

    def full(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((count,), value, dtype=dtype, device=device)

    return Draws(
        full(one["temperature"], torch.float32),
        full(int(one["top_k"]), torch.int64),
        full(one["top_p"], torch.float32),
        full(one["min_p"], torch.float32),
        full(seed, torch.int64),
        torch.arange(first_row, first_row + count, device=device),
        full(3, torch.int64),
        sampled=one["temperature"] > 0,
        truncated=one["temperature"] > 0 and (one["top_k"] > 0 or one["top_p"] < 1 or one["min_p"] > 0),
    )


def logits(rows: int, width: int, extra: int = 0, dtype: torch.dtype = torch.float32, combines: bool = True) -> Parts:
    generator = torch.Generator().manual_seed(rows + width)

    def made(columns: int) -> Tensor:
        return (3 * torch.randn(rows, columns, generator=generator)).to(dtype)

    if not combines:
        return Parts(made(width))
    return Parts(made(width), made(width + extra), made(width + extra), 0.7)


def one_row(s: Tensor, one: Draws, number: int) -> tuple[int, set[int]]:
    """(token, tokens that truncation keeps) of one row's combined logits, token by token as the warpers are defined."""
    temperature = float(one.temperature[number])
    if temperature == 0:
        return int(s.argmax()), set(range(len(s)))
    z = s / temperature
    kept = sorted(range(len(z)), key=lambda v: -float(z[v]))
    top_k, top_p, min_p = int(one.top_k[number]), float(one.top_p[number]), float(one.min_p[number])
    if top_k:
        kept = kept[:top_k]
    mass = torch.softmax(z[kept].double(), 0)
    if top_p < 1:
        before = mass.cumsum(0) - mass
        kept = [v for v, b in zip(kept, before.tolist(), strict=True) if b < top_p]
    if min_p:
        kept = [v for v in kept if float(z[v] - z.max()) >= torch.tensor(min_p).log()]
    noise = gumbel(one.seed[number, None], one.row[number, None], one.position[number, None], 0, len(z))[0]
    return max(kept, key=lambda v: float(z[v] + noise[v])), set(kept)
