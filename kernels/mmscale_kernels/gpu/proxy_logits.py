"""Triton kernels of mmscale_kernels.proxy_logits: three rows of logits, read once for a choice without truncation.

A stretch of a row is a program; what truncation keeps is found by a search over the bits of the numbers, sixteen
candidates per pass, without a sort.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmscale_kernels.proxy_parts import Draws, Parts, joined_partials

BLOCK = 2048
WARPS = 8
SEARCH_BLOCK = 512
BITS = 4
"""How many of a number's 32 bits a pass of the search settles."""
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_PROGRAMS = 512
"""Rows are cut into stretches until there are so many programs, enough for every GPU."""


@triton.jit
def _combined(base, expert, antiexpert, places, inside, alpha, COMBINES: tl.constexpr):
    s = tl.load(base + places, mask=inside, other=-float("inf")).to(tl.float32)
    if COMBINES:
        e = tl.load(expert + places, mask=inside, other=0.0).to(tl.float32)
        a = tl.load(antiexpert + places, mask=inside, other=0.0).to(tl.float32)
        s += alpha * (e - a)
    return s


@triton.jit
def _uniform(word):
    return tl.minimum((word.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.999999940395355224609375)


@triton.jit
def _gumbel(seed, row, position, first, BLOCK: tl.constexpr):
    """Noise of tokens first..first+BLOCK-1; first is a multiple of 4."""
    group = (first // 4).to(tl.uint32) + tl.arange(0, BLOCK // 4).to(tl.uint32)
    zero = group * 0
    r0, r1, r2, r3 = tl.philox(seed, group, zero + row.to(tl.uint32), zero + position.to(tl.uint32), zero)
    v = tl.interleave(tl.interleave(_uniform(r0), _uniform(r2)), tl.interleave(_uniform(r1), _uniform(r3)))
    series = v * (1 + v * (0.5 + v * (0.3333333333333333 + v * 0.25)))
    return -tl.log(tl.where(v < 0.0078125, series, -tl.log(1 - v)))


@triton.jit
def partials_kernel(
    base,
    expert,
    antiexpert,
    temperatures,
    limits,
    seeds,
    rows,
    positions,
    found,
    columns,
    span,
    first,
    stride_base,
    stride_expert,
    stride_antiexpert,
    alpha,
    COMBINES: tl.constexpr,
    SAMPLED: tl.constexpr,
    TRUNCATED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    base += n * stride_base
    expert += n * stride_expert
    antiexpert += n * stride_antiexpert
    temperature = tl.load(temperatures + n)
    hot = temperature > 0
    scale = tl.where(hot, temperature, 1.0)
    seed, row, position = tl.load(seeds + n), tl.load(rows + n), tl.load(positions + n)
    limit = -float("inf")
    if TRUNCATED:
        limit = tl.where(hot, tl.load(limits + n), -float("inf"))
    largest = -float("inf")
    total = 0.0
    best_key = -float("inf")
    best_token = 0
    best_logit = -float("inf")
    # noise comes in fours: where the stretch does not begin with one, the first places lie before it
    shift = first % 4
    for begin in range(part * span - shift, tl.minimum((part + 1) * span - shift, columns), BLOCK):
        places = begin + tl.arange(0, BLOCK)
        inside = (places >= 0) & (places < columns)
        s = _combined(base, expert, antiexpert, places, inside, alpha, COMBINES)
        higher = tl.maximum(largest, tl.max(s, 0))
        safe = tl.where(higher == -float("inf"), 0.0, higher)
        total = total * tl.exp(largest - safe) + tl.sum(tl.exp(s - safe), 0)
        largest = higher
        key = s / scale
        if TRUNCATED:
            key = tl.where(key < limit, -float("inf"), key)
        if SAMPLED:
            key += tl.where(hot, _gumbel(seed, row, position, first + begin, BLOCK), 0.0)
        top = tl.max(key, 0)
        if top > best_key:
            place = tl.min(tl.where(key == top, places, columns), 0)
            best_key = top
            best_token = place
            best_logit = tl.sum(tl.where(places == place, s, 0.0), 0)
    out = found + (part * tl.num_programs(0) + n) * 5
    tl.store(out, largest)
    tl.store(out + 1, total)
    tl.store(out + 2, best_key)
    tl.store(out + 3, (best_token + first).to(tl.float32))
    tl.store(out + 4, best_logit)


@triton.jit
def _ordered(x):
    """Integers in the order of the numbers."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _unordered(key):
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def thresholds_kernel(
    base,
    expert,
    antiexpert,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    found,
    columns,
    stride_base,
    stride_expert,
    stride_antiexpert,
    alpha,
    COMBINES: tl.constexpr,
    BITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    n = tl.program_id(0).to(tl.int64)
    base += n * stride_base
    expert += n * stride_expert
    antiexpert += n * stride_antiexpert
    temperature = tl.load(temperatures + n)
    scale = tl.where(temperature > 0, temperature, 1.0)
    largest = -float("inf")
    for begin in range(0, columns, BLOCK):
        places = begin + tl.arange(0, BLOCK)
        s = _combined(base, expert, antiexpert, places, places < columns, alpha, COMBINES)
        largest = tl.maximum(largest, tl.max(s / scale, 0))
    WAYS: tl.constexpr = 1 << BITS
    limit = tl.full((), -0x7F800001, tl.int32)  # that of -inf: everything
    # once for top-k, counting; once for top-p, weighing what top-k left
    for which in tl.static_range(2):
        top_k, top_p = tl.load(top_ks + n), tl.load(top_ps + n)
        wanted = tl.where(top_k > 0, tl.minimum(top_k, columns), columns).to(tl.float32)
        if which == 1:
            kept = 0.0
            for begin in range(0, columns, BLOCK):
                places = begin + tl.arange(0, BLOCK)
                s = _combined(base, expert, antiexpert, places, places < columns, alpha, COMBINES) / scale
                kept += tl.sum(tl.where(_ordered(s) >= limit, tl.exp(s - largest), 0.0), 0)
            wanted = tl.where(top_p < 1, top_p * kept, float("inf"))
        key = tl.full((), -2147483648, tl.int32).to(tl.int64)
        for shift in tl.static_range(32 - BITS, -1, -BITS):
            candidates = key + (tl.arange(0, WAYS).to(tl.int64) << shift)
            weights = tl.zeros((WAYS,), dtype=tl.float32)
            for begin in range(0, columns, BLOCK):
                places = begin + tl.arange(0, BLOCK)
                inside = places < columns
                s = _combined(base, expert, antiexpert, places, inside, alpha, COMBINES) / scale
                order = _ordered(s)
                weight = tl.where(inside, 1.0, 0.0)
                if which == 1:
                    weight = tl.where(order >= limit, tl.exp(s - largest), 0.0)
                above = order.to(tl.int64)[None, :] >= candidates[:, None]
                weights += tl.sum(tl.where(above, weight[None, :], 0.0), 1)
            # the largest candidate that still holds enough; the first one when nothing does
            enough = (weights >= wanted).to(tl.int32)
            key += (tl.maximum(tl.sum(enough, 0) - 1, 0).to(tl.int64)) << shift
        limit = tl.maximum(limit, key.to(tl.int32))
    threshold = tl.where(limit <= -0x7F800001, -float("inf"), _unordered(limit))
    tl.store(found + n, tl.maximum(threshold, largest + tl.log(tl.load(min_ps + n))))


def _require(parts: Parts) -> None:
    for logits in (parts.base, parts.expert, parts.antiexpert):
        if logits is not None and logits.dtype not in _DTYPES:
            raise ValueError(f"Triton's proxy logits take float16, bfloat16 or float32, not {logits.dtype}")
        if logits is not None and logits.stride(1) != 1:
            raise ValueError("the entries of a row of logits have to lie side by side: call .contiguous()")


def _arguments(parts: Parts) -> tuple[list[Tensor], list[int]]:
    """The three tensors and their strides; the base stands in for models that are not there."""
    tensors = [parts.base, *(t if t is not None else parts.base for t in (parts.expert, parts.antiexpert))]
    return tensors, [tensor.stride(0) for tensor in tensors]


def thresholds(parts: Parts, draws: Draws) -> Tensor:
    """float32 [N]; see mmscale_kernels.proxy_logits.thresholds."""
    rows, columns = parts.base.shape
    found = torch.empty(rows, dtype=torch.float32, device=parts.base.device)
    tensors, strides = _arguments(parts)
    more = draws.temperature, draws.top_k, draws.top_p, draws.min_p
    thresholds_kernel[(rows,)](
        *tensors,
        *more,
        found,
        columns,
        *strides,
        float(parts.alpha),
        COMBINES=parts.combines,
        BITS=BITS,
        BLOCK=SEARCH_BLOCK,
        num_warps=WARPS,
    )
    return found


def partials(parts: Parts, draws: Draws, first: int) -> Tensor:
    """[N, 5]; see mmscale_kernels.proxy_logits.partials."""
    _require(parts)
    rows, columns = parts.base.shape
    stretches = max(1, min(triton.cdiv(columns, BLOCK), _PROGRAMS // rows))
    span = triton.cdiv(triton.cdiv(columns + 3, stretches), BLOCK) * BLOCK
    stretches = triton.cdiv(columns + first % 4, span)
    found = torch.empty(stretches, rows, 5, dtype=torch.float32, device=parts.base.device)
    limits = thresholds(parts, draws) if draws.truncated else draws.temperature
    tensors, strides = _arguments(parts)
    partials_kernel[(rows, stretches)](
        *tensors,
        draws.temperature,
        limits,
        draws.seed,
        draws.row,
        draws.position,
        found,
        columns,
        span,
        first,
        *strides,
        float(parts.alpha),
        COMBINES=parts.combines,
        SAMPLED=draws.sampled,
        TRUNCATED=draws.truncated,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return joined_partials(found)
