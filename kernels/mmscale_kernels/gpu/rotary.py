"""Triton kernel of mmscale_kernels.rotary: a program a token and a few heads of its queries or keys."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

HEADS = 8
"""Heads that a program turns."""
WARPS = 4
_VARYING = ["tokens", "query_batch", "key_batch", "query_out_batch", "key_out_batch", "cos_batch", "sin_batch"]
"""Numbers that grow with a row: a kernel made for some of them would be compiled again for others."""


@triton.jit
def _turn(
    source,
    out,
    first,
    heads,
    source_head,
    out_head,
    cos,
    sin,
    HALF,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
):
    head = first + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    there = column < HALF
    inside = (head < heads) & there
    low = tl.load(source + head * source_head + column, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(source + head * source_head + HALF + column, mask=inside, other=0.0).to(tl.float32)
    cos_low = tl.load(cos + column, mask=there, other=0.0).to(tl.float32)
    cos_high = tl.load(cos + HALF + column, mask=there, other=0.0).to(tl.float32)
    sin_low = tl.load(sin + column, mask=there, other=0.0).to(tl.float32)
    sin_high = tl.load(sin + HALF + column, mask=there, other=0.0).to(tl.float32)
    if BACKWARD:
        turned_low = low * cos_low + high * sin_high
        turned_high = high * cos_high - low * sin_low
    else:
        turned_low = low * cos_low - high * sin_low
        turned_high = high * cos_high + low * sin_high
    tl.store(out + head * out_head + column, turned_low.to(out.dtype.element_ty), mask=inside)
    tl.store(out + head * out_head + HALF + column, turned_high.to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_VARYING)
def rotary_kernel(
    query,
    key,
    query_out,
    key_out,
    cos,
    sin,
    tokens,
    query_heads,
    key_heads,
    query_batch,
    query_head,
    query_token,
    key_batch,
    key_head,
    key_token,
    query_out_batch,
    query_out_head,
    query_out_token,
    key_out_batch,
    key_out_head,
    key_out_token,
    cos_batch,
    cos_token,
    sin_batch,
    sin_token,
    HALF,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
):
    batch = tl.program_id(0).to(tl.int64) // tokens
    token = tl.program_id(0).to(tl.int64) % tokens
    block = tl.program_id(1)
    query_blocks = tl.cdiv(query_heads, HEADS)
    cos_row = cos + batch * cos_batch + token * cos_token
    sin_row = sin + batch * sin_batch + token * sin_token
    if block < query_blocks:
        _turn(
            query + batch * query_batch + token * query_token,
            query_out + batch * query_out_batch + token * query_out_token,
            block * HEADS,
            query_heads,
            query_head,
            query_out_head,
            cos_row,
            sin_row,
            HALF,
            BACKWARD,
            BLOCK,
            HEADS,
        )
    else:
        _turn(
            key + batch * key_batch + token * key_token,
            key_out + batch * key_out_batch + token * key_out_token,
            (block - query_blocks) * HEADS,
            key_heads,
            key_head,
            key_out_head,
            cos_row,
            sin_row,
            HALF,
            BACKWARD,
            BLOCK,
            HEADS,
        )


def rotate(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    cos_BTD: Tensor,
    sin_BTD: Tensor,
    dtypes: tuple[torch.dtype, torch.dtype],
    backward: bool,
) -> tuple[Tensor, Tensor]:
    """Queries and keys turned, or their gradients turned back: new ones of these dtypes, laid out as they are."""
    query, key, cos, sin = (
        part if part.stride(-1) == 1 else part.contiguous() for part in (query_BHTD, key_BKTD, cos_BTD, sin_BTD)
    )
    query_out, key_out = torch.empty_like(query, dtype=dtypes[0]), torch.empty_like(key, dtype=dtypes[1])
    batch, heads, tokens, width = query.shape
    if batch * tokens * width:
        strides = [stride for states in (query, key, query_out, key_out) for stride in states.stride()[:3]]
        rows = [stride for part in (cos, sin) for stride in (part.stride(0) * (part.shape[0] > 1), part.stride(1))]
        grid = batch * tokens, triton.cdiv(heads, HEADS) + triton.cdiv(key.shape[1], HEADS)
        rotary_kernel[grid](
            query,
            key,
            query_out,
            key_out,
            cos,
            sin,
            tokens,
            heads,
            key.shape[1],
            *strides,
            *rows,
            width // 2,
            BACKWARD=backward,
            BLOCK=triton.next_power_of_2(width // 2),
            HEADS=HEADS,
            num_warps=WARPS,
        )
    return query_out, key_out
