"""Triton kernels that move rows, each read once and written once, and sum columns on the way."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
"""Entries of a row that a program moves at a time, at most; of those tried on an H200, nearest to a copy at all sizes."""
WARPS = 4


@dataclass(frozen=True)
class SumTile:
    """What one program moves and sums."""

    rows: int
    columns: int
    warps: int


SUM_TILE = SumTile(128, 128, 8)
"""A column's partial sums, in float32, are a sixty-fourth of what 16-bit rows hold. Measured like BLOCK."""


@triton.jit
def scatter_kernel(source, places, out, width, stride_source, stride_out, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(places + row)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < width
        values = tl.load(source + row * stride_source + column, mask=inside)
        tl.store(out + place * stride_out + column, values.to(out.dtype.element_ty), mask=inside)


def block_for(width: int) -> int:
    return min(BLOCK, max(16, triton.next_power_of_2(width)))


def scatter(source_ND: Tensor, places_N: Tensor, out_TD: Tensor) -> None:
    """out[places[n]] = source[n]; a source of one row that is expanded (stride 0) is written to every place."""
    count, width = source_ND.shape
    if count and width:
        strides = source_ND.stride(0), out_TD.stride(0)
        block = block_for(width)
        scatter_kernel[(count,)](source_ND, places_N, out_TD, width, *strides, BLOCK=block, num_warps=WARPS)


@triton.jit
def sum_kernel(
    source,
    places,
    kept,
    out,
    sums,
    count,
    width,
    stride_source,
    GATHERS: tl.constexpr,
    CUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Write a tile of rows of the source, and sum each of its columns: sums [tiles, width], out and kept [count, width]."""
    blocks = tl.cdiv(width, COLUMNS)
    tile, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    row = tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = block * COLUMNS + tl.arange(0, COLUMNS)
    real, inside = row < count, column < width
    both = real[:, None] & inside[None, :]
    origin = tl.load(places + row, mask=real, other=0) if GATHERS else row
    values = tl.load(source + origin[:, None] * stride_source + column[None, :], mask=both, other=0)
    values = values.to(out.dtype.element_ty)
    target = row[:, None] * width + column[None, :]
    if CUTS:
        values = tl.where(tl.load(kept + target, mask=both, other=0) <= 0, 0.0, values).to(out.dtype.element_ty)
    tl.store(out + target, values, mask=both)
    total = tl.sum(values.to(tl.float32), 0)
    tl.store(sums + tile.to(tl.int64) * width + column, total, mask=inside)


def gather_and_sum(source_TD: Tensor, places_N: Tensor, out_ND: Tensor) -> Tensor:
    """out[n] = source[places[n]], in out's dtype; returns the sums of out's columns, float32."""
    return _summed(source_TD, out_ND, places_N, None)


def cut_and_sum(values_ND: Tensor, kept_ND: Tensor) -> Tensor:
    """Values turn into 0 where what is kept is not above 0, the slope of a ReLU; returns the sums of their columns, float32."""
    return _summed(values_ND, values_ND, None, kept_ND)


def _summed(source: Tensor, out_ND: Tensor, places_N: Tensor | None, kept_ND: Tensor | None) -> Tensor:
    """Column sums: of tiles by the kernel, and of all tiles in one order, so that every run gives the same bits."""
    count, width = out_ND.shape
    tile = SUM_TILE
    tiles = triton.cdiv(count, tile.rows)
    sums = torch.empty(tiles, width, dtype=torch.float32, device=out_ND.device)
    if count and width:
        # what a flag leaves unread stands in for what is not there
        sum_kernel[(tiles * triton.cdiv(width, tile.columns),)](
            source,
            source if places_N is None else places_N,
            source if kept_ND is None else kept_ND,
            out_ND,
            sums,
            count,
            width,
            source.stride(0),
            GATHERS=places_N is not None,
            CUTS=kept_ND is not None,
            ROWS=tile.rows,
            COLUMNS=tile.columns,
            num_warps=tile.warps,
        )
    return sums.sum(0)
