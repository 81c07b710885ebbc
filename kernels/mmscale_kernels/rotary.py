"""Queries and keys turned by their positions (Su et al. 2021, arXiv 2104.09864), halves of a head's width paired as LLaMA does.

    out_low  = x_low  cos_low  - x_high sin_low
    out_high = x_high cos_high + x_low  sin_high

The reference rounds each product to the dtype, as transformers does; Triton's kernel computes in float32 and rounds once.

Legend: B rows, T tokens, H heads of queries, K of keys, D head width (even).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmscale_kernels.dispatch import use_triton

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def rotate_reference(query_BHTD: Tensor, key_BKTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """By PyTorch, an operation at a time."""
    cos, sin = cos_BTD[:, None], sin_BTD[:, None]

    def turned(states: Tensor) -> Tensor:
        low, high = states.chunk(2, dim=-1)
        return states * cos + torch.cat((-high, low), dim=-1) * sin

    return turned(query_BHTD), turned(key_BKTD)


def rotate(query_BHTD: Tensor, key_BKTD: Tensor, cos_BTD: Tensor, sin_BTD: Tensor) -> tuple[Tensor, Tensor]:
    """Turned queries and keys, in the wider of their dtype and the cosines'; cos and sin are of B rows or of one.

    No gradient comes to cosines and sines by Triton. Raises ValueError on shapes.
    """
    _check(query_BHTD, key_BKTD, cos_BTD, sin_BTD)
    parts = query_BHTD, key_BKTD, cos_BTD, sin_BTD
    if all(part.dtype in _DTYPES for part in parts) and use_triton(query_BHTD.device):
        query, key = _Rotation.apply(*parts)
        return query, key
    return rotate_reference(*parts)


def _check(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> None:
    (batch, _, tokens, width), rows = query.shape, cos.shape[0]
    fits = (key.shape[0], *key.shape[2:]) == (batch, tokens, width) and width % 2 == 0
    if not fits or cos.shape != sin.shape or rows not in (1, batch) or cos.shape[1:] != (tokens, width):
        shapes = ", ".join(str(tuple(part.shape)) for part in (query, key, cos, sin))
        raise ValueError(f"queries, keys, cosines and sines [B, H, T, D], [B, K, T, D], [B or 1, T, D]; not {shapes}")


class _Rotation(torch.autograd.Function):
    """By Triton; the backward pass is the rotation by the negative angle."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        from mmscale_kernels.gpu import rotary as gpu

        ctx.save_for_backward(cos, sin)
        ctx.dtypes = query.dtype, key.dtype
        dtypes = torch.promote_types(query.dtype, cos.dtype), torch.promote_types(key.dtype, cos.dtype)
        return gpu.rotate(query, key, cos, sin, dtypes, False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_query: Tensor, d_key: Tensor) -> tuple[Tensor, Tensor, None, None]:
        from mmscale_kernels.gpu import rotary as gpu

        cos, sin = ctx.saved_tensors
        return *gpu.rotate(d_query, d_key, cos, sin, ctx.dtypes, True), None, None
