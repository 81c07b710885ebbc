"""Triton kernels that find what top-k and top-p keep of a row of logits, without a sort.

Maxima and sums of a row's blocks bound the threshold from below: of the k-th largest number, or where the numbers that are left out
could not weigh 1 - top_p all together. The few numbers above that bound are collected, and the threshold is searched among them over
the bits of a number, sixteen candidates per pass. A row of which a block has too many of them, such as a flat one, is searched
whole: the same threshold, more slowly.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmscale_kernels.proxy_parts import Draws, Parts

BLOCK = 2048
"""Numbers of a row that are bounded and collected together."""
ROOM = 128
"""Places for what is collected of a block."""
SEARCH_BLOCK = 512
BITS = 4
"""How many of a number's 32 bits a pass of the search settles."""
WARPS = 8
_LEAST = tl.constexpr(-0x7F800001)
"""Where -inf stands in the order of the numbers."""


@triton.jit
def combined(base, expert, antiexpert, places, inside, alpha, COMBINES: tl.constexpr):
    s = tl.load(base + places, mask=inside, other=-float("inf")).to(tl.float32)
    if COMBINES:
        e = tl.load(expert + places, mask=inside, other=0.0).to(tl.float32)
        a = tl.load(antiexpert + places, mask=inside, other=0.0).to(tl.float32)
        s += alpha * (e - a)
    return s


@triton.jit
def _scaled(base, expert, antiexpert, temperatures, n, places, inside, alpha, COMBINES: tl.constexpr):
    temperature = tl.load(temperatures + n)
    s = combined(base, expert, antiexpert, places, inside, alpha, COMBINES)
    return s * (1.0 / tl.where(temperature > 0, temperature, 1.0))  # as the choice does: limits are compared with it


@triton.jit
def blocks_kernel(
    base,
    expert,
    antiexpert,
    temperatures,
    tops,
    masses,
    columns,
    stride_base,
    stride_expert,
    stride_antiexpert,
    alpha,
    COMBINES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each block's largest number, and the sum of exp(number - largest)."""
    n, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    base += n * stride_base
    expert += n * stride_expert
    antiexpert += n * stride_antiexpert
    places = block * BLOCK + tl.arange(0, BLOCK)
    s = _scaled(base, expert, antiexpert, temperatures, n, places, places < columns, alpha, COMBINES)
    top = tl.max(s, 0)
    at = n * tl.num_programs(1) + block
    tl.store(tops + at, top)
    tl.store(masses + at, tl.sum(tl.exp(s - tl.where(top == -float("inf"), 0.0, top)), 0))


@triton.jit
def collect_kernel(
    base,
    expert,
    antiexpert,
    temperatures,
    top_ks,
    top_ps,
    tops,
    listed,
    counts,
    columns,
    stride_base,
    stride_expert,
    stride_antiexpert,
    alpha,
    COMBINES: tl.constexpr,
    BLOCK: tl.constexpr,
    ROOM: tl.constexpr,
    PADDED: tl.constexpr,
):
    """A block's numbers from the bound on, in order, then -inf; and how many there are."""
    n, block, blocks = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    base += n * stride_base
    expert += n * stride_expert
    antiexpert += n * stride_antiexpert
    top_k, top_p = tl.load(top_ks + n), tl.load(top_ps + n)
    every = tl.arange(0, PADDED)
    maxima = tl.load(tops + n * blocks + every, mask=every < blocks, other=-float("inf"))
    bound = tl.full((), float("inf"), tl.float32)
    if top_k > 0:  # so many blocks hold a number that large
        reached = tl.sum((maxima[None, :] >= maxima[:, None]).to(tl.int32), 1) >= top_k
        bound = tl.max(tl.where(reached, maxima, -float("inf")), 0)
    elif top_p < 1:  # all numbers below weigh less than 1 - top_p of the largest; a hundredth is left to rounding
        bound = tl.max(maxima, 0) - tl.log(columns / tl.maximum(1 - top_p, 1e-9)) - 0.01
    places = block * BLOCK + tl.arange(0, BLOCK)
    s = _scaled(base, expert, antiexpert, temperatures, n, places, places < columns, alpha, COMBINES)
    kept = (s >= bound) & (s > -float("inf"))
    slot = tl.cumsum(kept.to(tl.int32), 0) - 1
    count = tl.sum(kept.to(tl.int32), 0)
    own = listed + (n * blocks + block) * ROOM
    tl.store(own + slot, s, mask=kept & (slot < ROOM))
    room = tl.arange(0, ROOM)
    tl.store(own + room, tl.zeros((ROOM,), tl.float32) - float("inf"), mask=room >= count)
    tl.store(counts + n * blocks + block, count)


@triton.jit
def _ordered(x):
    """Integers in the order of the numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _unordered(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _numbers(
    base,
    expert,
    antiexpert,
    temperatures,
    own,
    n,
    begin,
    columns,
    size,
    alpha,
    COMBINES: tl.constexpr,
    LISTED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    places = begin + tl.arange(0, BLOCK)
    if LISTED:
        s = tl.load(own + places, mask=places < size, other=-float("inf"))
    else:
        s = _scaled(base, expert, antiexpert, temperatures, n, places, places < columns, alpha, COMBINES)
    return s


@triton.jit
def _search(
    base,
    expert,
    antiexpert,
    temperatures,
    own,
    n,
    columns,
    size,
    alpha,
    wanted,
    limit,
    largest,
    COMBINES: tl.constexpr,
    LISTED: tl.constexpr,
    WEIGHTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The largest number, by its place in the order, such that those from it on are `wanted` or weigh that; of those from
    `limit` on."""
    WAYS: tl.constexpr = 1 << BITS
    key = tl.full((), -2147483648, tl.int32).to(tl.int64)
    for step in range(32 // BITS):
        shift = 32 - BITS * (step + 1)
        candidates = (key + (tl.arange(0, WAYS).to(tl.int64) << shift)).to(tl.int32)
        held = tl.zeros((WAYS, BLOCK), tl.float32)
        for begin in range(0, size, BLOCK):
            s = _numbers(
                base, expert, antiexpert, temperatures, own, n, begin, columns, size, alpha, COMBINES, LISTED, BLOCK
            )
            order = _ordered(s)
            weight = tl.where(order >= limit, 1.0, 0.0)
            if WEIGHTED:
                weight *= tl.exp(s - largest)
            held += tl.where(order[None, :] >= candidates[:, None], weight[None, :], 0.0)
        # the largest candidate that still holds enough; the first one when nothing does
        enough = (tl.sum(held, 1) >= wanted).to(tl.int32)
        key += tl.maximum(tl.sum(enough, 0) - 1, 0).to(tl.int64) << shift
    return key.to(tl.int32)


@triton.jit
def _limit(
    base,
    expert,
    antiexpert,
    temperatures,
    own,
    n,
    columns,
    size,
    alpha,
    top_k,
    top_p,
    whole,
    largest,
    COMBINES: tl.constexpr,
    LISTED: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Where the threshold of top-k, then of top-p among what that left, stands in the order; `whole` is the sum of weights."""
    limit = tl.full((), _LEAST, tl.int32)
    if top_k > 0:
        wanted = tl.minimum(top_k, columns).to(tl.float32)
        key = _search(
            base, expert, antiexpert, temperatures, own, n, columns, size, alpha,
            wanted, limit, largest, COMBINES, LISTED, False, BITS, BLOCK,
        )  # fmt: skip
        limit = tl.maximum(limit, key)
        kept = tl.zeros((BLOCK,), tl.float32)
        for begin in range(0, size, BLOCK):
            s = _numbers(
                base, expert, antiexpert, temperatures, own, n, begin, columns, size, alpha, COMBINES, LISTED, BLOCK
            )
            kept += tl.where(_ordered(s) >= limit, tl.exp(s - largest), 0.0)
        whole = tl.sum(kept, 0)
    if top_p < 1:
        key = _search(
            base, expert, antiexpert, temperatures, own, n, columns, size, alpha,
            top_p * whole, limit, largest, COMBINES, LISTED, True, BITS, BLOCK,
        )  # fmt: skip
        limit = tl.maximum(limit, key)
    return limit


@triton.jit
def thresholds_kernel(
    base,
    expert,
    antiexpert,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    tops,
    masses,
    listed,
    counts,
    found,
    columns,
    blocks,
    stride_base,
    stride_expert,
    stride_antiexpert,
    alpha,
    COMBINES: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
    ROOM: tl.constexpr,
    PADDED: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    base += n * stride_base
    expert += n * stride_expert
    antiexpert += n * stride_antiexpert
    top_k, top_p = tl.load(top_ks + n), tl.load(top_ps + n)
    every = tl.arange(0, PADDED)
    inside = every < blocks
    maxima = tl.load(tops + n * blocks + every, mask=inside, other=-float("inf"))
    mass = tl.load(masses + n * blocks + every, mask=inside, other=0.0)
    most = tl.max(tl.load(counts + n * blocks + every, mask=inside, other=0), 0)
    largest = tl.max(maxima, 0)
    whole = tl.sum(mass * tl.exp(maxima - largest), 0)
    own = listed + n * blocks * ROOM
    if most <= ROOM:
        limit = _limit(
            base, expert, antiexpert, temperatures, own, n, columns, blocks * ROOM, alpha,
            top_k, top_p, whole, largest, COMBINES, True, BITS, BLOCK,
        )  # fmt: skip
    else:
        limit = _limit(
            base, expert, antiexpert, temperatures, own, n, columns, columns, alpha,
            top_k, top_p, whole, largest, COMBINES, False, BITS, BLOCK,
        )  # fmt: skip
    threshold = tl.where(limit <= _LEAST, -float("inf"), _unordered(limit))
    tl.store(found + n, tl.maximum(threshold, largest + tl.log(tl.load(min_ps + n))))


def arguments(parts: Parts) -> tuple[list[Tensor], list[int]]:
    """The three tensors and their rows' strides; the base stands in for models that are not there."""
    tensors = [parts.base, *(t if t is not None else parts.base for t in (parts.expert, parts.antiexpert))]
    return tensors, [tensor.stride(0) for tensor in tensors]


def thresholds(parts: Parts, draws: Draws) -> Tensor:
    """float32 [N]; see mmscale_kernels.proxy_logits.thresholds."""
    (rows, columns), device = parts.base.shape, parts.base.device
    blocks = triton.cdiv(columns, BLOCK)
    padded = triton.next_power_of_2(blocks)
    tops, masses = torch.empty(2, rows, blocks, dtype=torch.float32, device=device)
    listed = torch.empty(rows, blocks, ROOM, dtype=torch.float32, device=device)
    counts = torch.empty(rows, blocks, dtype=torch.int32, device=device)
    found = torch.empty(rows, dtype=torch.float32, device=device)
    tensors, strides = arguments(parts)
    how: dict[str, Any] = {"COMBINES": parts.combines, "num_warps": WARPS}
    grid, alpha = (rows, blocks), float(parts.alpha)
    temperature, top_k, top_p = draws.temperature, draws.top_k, draws.top_p
    blocks_kernel[grid](*tensors, temperature, tops, masses, columns, *strides, alpha, BLOCK=BLOCK, **how)
    bounded = (temperature, top_k, top_p, tops, listed, counts)
    collect_kernel[grid](*tensors, *bounded, columns, *strides, alpha, BLOCK=BLOCK, ROOM=ROOM, PADDED=padded, **how)
    searched = (temperature, top_k, top_p, draws.min_p, tops, masses, listed, counts, found)
    sizes: dict[str, Any] = {"BITS": BITS, "BLOCK": SEARCH_BLOCK, "ROOM": ROOM, "PADDED": padded}
    thresholds_kernel[(rows,)](*tensors, *searched, columns, blocks, *strides, alpha, **sizes, **how)
    return found
