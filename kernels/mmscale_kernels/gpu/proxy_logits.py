"""Triton kernels of mmscale_kernels.proxy_logits: three rows of logits, read once for a choice without truncation.

A stretch of a row is a program, whose lanes keep a choice and sums of their own until the stretch ends; a second kernel joins
the stretches. What truncation keeps is gpu.truncation's.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from mmscale_kernels.gpu.truncation import arguments, combined, thresholds
from mmscale_kernels.proxy_parts import FIELDS, Chosen, Draws, Parts, joined_partials

BLOCK = 2048
WARPS = 8
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
PROGRAMS = 1024
"""Rows are cut into stretches until there are so many programs, enough for every GPU."""
_LEAST = tl.constexpr(-3.0e38)
"""Below every number but -inf: a maximum that nothing has reached yet, whose differences are numbers."""


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
    inverse = 1.0 / tl.where(hot, temperature, 1.0)
    seed, row, position = tl.load(seeds + n), tl.load(rows + n), tl.load(positions + n)
    limit = -float("inf")
    if TRUNCATED:
        limit = tl.where(hot, tl.load(limits + n), -float("inf"))
    largest = tl.full((BLOCK,), _LEAST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    best_key = tl.full((BLOCK,), -float("inf"), tl.float32)
    best_place = tl.zeros((BLOCK,), tl.int32)
    # noise comes in fours: where the stretch does not begin with one, the first places lie before it
    shift = first % 4
    for begin in range(part * span - shift, tl.minimum((part + 1) * span - shift, columns), BLOCK):
        places = begin + tl.arange(0, BLOCK)
        inside = (places >= 0) & (places < columns)
        s = combined(base, expert, antiexpert, places, inside, alpha, COMBINES)
        higher = tl.maximum(largest, s)
        total = total * tl.exp(largest - higher) + tl.exp(s - higher)
        largest = higher
        key = s
        if SAMPLED:
            key *= inverse
        if TRUNCATED:
            key = tl.where(key < limit, -float("inf"), key)
        if SAMPLED:
            key += tl.where(hot, _gumbel(seed, row, position, first + begin, BLOCK), 0.0)
        better = key > best_key
        best_key = tl.where(better, key, best_key)
        best_place = tl.where(better, places, best_place)
    top = tl.max(largest, 0)
    total *= tl.exp(largest - top)
    top = tl.where(top == _LEAST, -float("inf"), top)
    chosen = tl.max(best_key, 0)
    place = tl.minimum(tl.min(tl.where(best_key == chosen, best_place, columns), 0), columns - 1)
    s = combined(base, expert, antiexpert, place, place >= 0, alpha, COMBINES)
    out = found + (part * tl.num_programs(0) + n) * 5
    tl.store(out, top)
    tl.store(out + 1, tl.sum(total, 0))
    tl.store(out + 2, chosen)
    tl.store(out + 3, (place + first).to(tl.float32))
    tl.store(out + 4, tl.where(chosen == -float("inf"), chosen, s))


@triton.jit
def choice_kernel(found, tokens, log_probabilities, log_sums, stretches, PADDED: tl.constexpr):
    """Joins the stretches of a row; ties go to the lowest token."""
    n = tl.program_id(0).to(tl.int64)
    stretch = tl.arange(0, PADDED)
    inside = stretch < stretches
    at = found + (stretch * tl.num_programs(0) + n) * 5
    largest = tl.load(at, mask=inside, other=-float("inf"))
    top = tl.max(largest, 0)
    total = tl.sum(
        tl.load(at + 1, mask=inside, other=0.0) * tl.exp(largest - tl.where(top == -float("inf"), 0.0, top)), 0
    )
    key = tl.load(at + 2, mask=inside, other=-float("inf"))
    best = tl.min(tl.where(key == tl.max(key, 0), stretch, PADDED), 0)
    token = tl.sum(tl.where(stretch == best, tl.load(at + 3, mask=inside, other=0.0), 0.0), 0)
    logit = tl.sum(tl.where(stretch == best, tl.load(at + 4, mask=inside, other=0.0), 0.0), 0)
    log_sum = top + tl.log(total)
    tl.store(tokens + n, token.to(tl.int64))
    tl.store(log_probabilities + n, logit - log_sum)
    tl.store(log_sums + n, log_sum)


def _require(parts: Parts) -> None:
    for logits in (parts.base, parts.expert, parts.antiexpert):
        if logits is not None and logits.dtype not in _DTYPES:
            raise ValueError(f"Triton's proxy logits take float16, bfloat16 or float32, not {logits.dtype}")
        if logits is not None and logits.stride(1) != 1:
            raise ValueError("the entries of a row of logits have to lie side by side: call .contiguous()")


def _stretches(parts: Parts, draws: Draws, first: int) -> Tensor:
    """[S, N, 5]: the fields of every stretch of a row, in order."""
    _require(parts)
    rows, columns = parts.base.shape
    stretches = max(1, min(triton.cdiv(columns, BLOCK), PROGRAMS // rows))
    span = triton.cdiv(triton.cdiv(columns + 3, stretches), BLOCK) * BLOCK
    stretches = triton.cdiv(columns + first % 4, span)
    found = torch.empty(stretches, rows, FIELDS, dtype=torch.float32, device=parts.base.device)
    limits = thresholds(parts, draws) if draws.truncated else draws.temperature
    tensors, strides = arguments(parts)
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
    return found


def partials(parts: Parts, draws: Draws, first: int) -> Tensor:
    """[N, 5]; see mmscale_kernels.proxy_logits.partials."""
    return joined_partials(_stretches(parts, draws, first))


def choose(parts: Parts, draws: Draws, first: int) -> Chosen:
    """See mmscale_kernels.proxy_logits.proxy_choose; one rank has the whole vocabulary."""
    found = _stretches(parts, draws, first)
    stretches, rows = found.shape[:2]
    token = torch.empty(rows, dtype=torch.int64, device=found.device)
    log_probability, log_sum_exp = torch.empty(2, rows, dtype=torch.float32, device=found.device)
    padded = triton.next_power_of_2(stretches)
    choice_kernel[(rows,)](found, token, log_probability, log_sum_exp, stretches, PADDED=padded, num_warps=1)
    return Chosen(token, log_probability, log_sum_exp)
