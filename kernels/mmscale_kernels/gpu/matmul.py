"""A tiled matrix product in Triton whose rows may come from, or go to, scattered places; sums in float32, no atomics.

    C[place(m), n] = f( sum_k A[m, k] B[k, n] + bias[n] )

The same numbers come out on every run: each tile of C is summed by one program, in order.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
GATHER_M, GATHER_K = 1, 2
"""Values of A_ROWS: rows of A come from places along m, or (A transposed) along k."""


@dataclass(frozen=True)
class Tile:
    """A tile of C, and how a program goes about it."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


LARGE = Tile(128, 128, 64, 8, 3)
SMALL = Tile(32, 64, 32, 4, 2)
EXACT = Tile(64, 64, 32, 4, 2)
"""For float32, which goes through the ordinary units in full precision."""
GROUP = 8
"""Tiles of m that are worked on together, so that B stays in the cache."""


@triton.jit
def matmul_kernel(
    A,
    B,
    C,
    bias,
    rows,
    kept,
    sums,
    M,
    N,
    K,
    stride_am,
    stride_ak,
    stride_bk,
    stride_bn,
    stride_cm,
    stride_km,
    A_ROWS: tl.constexpr,
    C_ROWS: tl.constexpr,
    BIAS: tl.constexpr,
    RELU: tl.constexpr,
    KEPT: tl.constexpr,
    SUMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
):
    tiles_m, tiles_n = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    program = tl.program_id(0)
    group = program // (GROUP * tiles_n)
    height = tl.minimum(tiles_m - group * GROUP, GROUP)
    tile_m = group * GROUP + (program % (GROUP * tiles_n)) % height
    tile_n = (program % (GROUP * tiles_n)) // height
    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    in_m, in_n = m < M, n < N
    place_m = m.to(tl.int64)
    if A_ROWS == 1 or C_ROWS:
        place_m = tl.load(rows + m, mask=in_m, other=0)
    from_m = place_m if A_ROWS == 1 else m.to(tl.int64)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    summed = tl.zeros((BLOCK_M,), dtype=tl.float32)
    for begin in range(0, K, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        in_k = k < K
        from_k = k.to(tl.int64)
        if A_ROWS == 2:
            from_k = tl.load(rows + k, mask=in_k, other=0)
        a = tl.load(
            A + from_m[:, None] * stride_am + from_k[None, :] * stride_ak, mask=in_m[:, None] & in_k[None, :], other=0.0
        )
        b = tl.load(
            B + k.to(tl.int64)[:, None] * stride_bk + n[None, :] * stride_bn,
            mask=in_k[:, None] & in_n[None, :],
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision=PRECISION)
        if SUMS:
            summed += tl.sum(a.to(tl.float32), 1)
    if BIAS:
        total += tl.load(bias + n, mask=in_n, other=0.0).to(tl.float32)[None, :]
    if RELU:
        total = tl.maximum(total, 0.0)
    inside = in_m[:, None] & in_n[None, :]
    if KEPT:
        positive = tl.load(kept + m.to(tl.int64)[:, None] * stride_km + n[None, :], mask=inside, other=0.0)
        total = tl.where(positive > 0, total, 0.0)
    to_m = place_m if C_ROWS else m.to(tl.int64)
    tl.store(C + to_m[:, None] * stride_cm + n[None, :], total.to(C.dtype.element_ty), mask=inside)
    if SUMS:
        tl.store(sums + m, summed, mask=tl.where(tile_n == 0, in_m, False))


def tile_for(dtype: torch.dtype, rows: int, columns: int) -> Tile:
    if dtype == torch.float32:
        return EXACT
    return LARGE if rows >= 64 and columns >= 64 else SMALL


def matmul(
    a_MK: Tensor,
    b_KN: Tensor,
    out: Tensor,
    *,
    bias_N: Tensor | None = None,
    relu: bool = False,
    kept_MN: Tensor | None = None,
    gather: tuple[int, Tensor] | None = None,
    scatter: Tensor | None = None,
    sums_M: Tensor | None = None,
) -> None:
    """out (its rows contiguous) = f(a @ b + bias).

    relu and `kept_MN > 0` cut the result to zero; `gather` says along which of a's axes (GATHER_M, GATHER_K) indices
    int64 are read instead of 0, 1, 2, and then a has more rows than the product; `scatter` int64 [M] says where in `out`
    a row goes; `sums_M` float32 gets a's sums over k.
    """
    rows = gather[1] if gather is not None else scatter
    size_m = rows.numel() if rows is not None and (gather is None or gather[0] == GATHER_M) else a_MK.shape[0]
    size_k, size_n = b_KN.shape
    if not size_m or not size_n:
        return
    tile = tile_for(a_MK.dtype, size_m, size_n)
    unused = a_MK  # a pointer that the kernel is compiled not to follow
    matmul_kernel[(triton.cdiv(size_m, tile.m) * triton.cdiv(size_n, tile.n),)](
        a_MK,
        b_KN,
        out,
        unused if bias_N is None else bias_N,
        unused if rows is None else rows,
        unused if kept_MN is None else kept_MN,
        unused if sums_M is None else sums_M,
        size_m,
        size_n,
        size_k,
        *a_MK.stride(),
        *b_KN.stride(),
        out.stride(0),
        0 if kept_MN is None else kept_MN.stride(0),
        A_ROWS=0 if gather is None else gather[0],
        C_ROWS=scatter is not None,
        BIAS=bias_N is not None,
        RELU=relu,
        KEPT=kept_MN is not None,
        SUMS=sums_M is not None,
        PRECISION="ieee",
        BLOCK_M=tile.m,
        BLOCK_N=tile.n,
        BLOCK_K=tile.k,
        GROUP=GROUP,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )
