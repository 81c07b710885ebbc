"""Triton kernels that move rows: a program a row, each read once and written once."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
WARPS = 4


@triton.jit
def scatter_kernel(source, places, out, width, stride_source, stride_out, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    place = tl.load(places + row)
    for begin in range(0, width, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        inside = column < width
        values = tl.load(source + row * stride_source + column, mask=inside)
        tl.store(out + place * stride_out + column, values.to(out.dtype.element_ty), mask=inside)


def scatter(source_ND: Tensor, places_N: Tensor, out_TD: Tensor) -> None:
    """out[places[n]] = source[n]; a source of one row that is expanded (stride 0) is written to every place."""
    count, width = source_ND.shape
    if count and width:
        strides = source_ND.stride(0), out_TD.stride(0)
        scatter_kernel[(count,)](source_ND, places_N, out_TD, width, *strides, BLOCK=BLOCK, num_warps=WARPS)
