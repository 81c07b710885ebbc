"""Triton kernels of mmscale_kernels.softmax_rows: a program a row, columns in blocks, each read once a pass."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
WARPS = 8
_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


@triton.jit
def statistics_kernel(logits, targets, found, columns, row_stride, rows, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    target = tl.load(targets + row)
    largest = -float("inf")
    total = 0.0
    for begin in range(0, columns, BLOCK):
        places = begin + tl.arange(0, BLOCK)
        x = tl.load(start + places, mask=places < columns, other=-float("inf")).to(tl.float32)
        higher = tl.maximum(largest, tl.max(x, 0))
        total = total * tl.exp(largest - higher) + tl.sum(tl.exp(x - higher), 0)
        largest = higher
    here = (target >= 0) & (target < columns)
    picked = tl.load(start + tl.where(here, target, 0), mask=here, other=0.0).to(tl.float32)
    tl.store(found + row, largest)
    tl.store(found + rows + row, total)
    tl.store(found + 2 * rows + row, picked)


@triton.jit
def gradient_kernel(logits, targets, lse, columns, row_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * row_stride
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < columns
    target = tl.load(targets + row)
    x = tl.load(start + places, mask=inside, other=0.0).to(tl.float32)
    gradient = tl.exp(x - tl.load(lse + row)) - tl.where(places == target, 1.0, 0.0)
    tl.store(start + places, gradient.to(logits.dtype.element_ty), mask=inside)


def _require(logits_NV: Tensor) -> None:
    if logits_NV.dtype not in _DTYPES:
        raise ValueError(f"Triton's softmax kernels take float16, bfloat16 or float32 logits, not {logits_NV.dtype}")


def statistics(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """See mmscale_kernels.softmax_rows.softmax_statistics."""
    _require(logits_NV)
    rows, columns = logits_NV.shape
    found = torch.empty(3, rows, dtype=torch.float32, device=logits_NV.device)
    if rows:
        arguments = logits_NV, targets_N.contiguous(), found, columns, logits_NV.stride(0), rows
        statistics_kernel[(rows,)](*arguments, BLOCK=BLOCK, num_warps=WARPS)
    return found


def gradient_(logits_NV: Tensor, targets_N: Tensor, lse_N: Tensor) -> None:
    """See mmscale_kernels.softmax_rows.softmax_gradient_."""
    _require(logits_NV)
    rows, columns = logits_NV.shape
    if rows and columns:
        arguments = logits_NV, targets_N.contiguous(), lse_N.contiguous(), columns, logits_NV.stride(0)
        gradient_kernel[(rows, triton.cdiv(columns, BLOCK))](*arguments, BLOCK=BLOCK, num_warps=WARPS)
