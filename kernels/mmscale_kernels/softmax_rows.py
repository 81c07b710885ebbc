"""Rows of logits, in two passes that need nothing but the row: what a cross entropy needs of them, and its gradient.

    statistics[:, n] = (max_v x_nv, sum_v exp(x_nv - max), x_n,target)     float32
    gradient: x_nv  <- exp(x_nv - lse_n) - [v = target_n]                  in place

A target outside 0..V-1 belongs to another rank of a group that shares the vocabulary: its logit counts as 0 here, and no
column is decreased. Logits may be float16, bfloat16, float32 (float64 in PyTorch's implementation); arithmetic is
float32 at least.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmscale_kernels.dispatch import use_triton

_BLOCK_ELEMENTS = {"cpu": 1 << 18}
"""Elements that PyTorch's implementation copies at a time: what stays in a processor's cache."""
_ELSEWHERE = 1 << 26
"""On a GPU without Triton: enough to keep it busy."""


def _widened(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _check(logits_NV: Tensor, targets_N: Tensor) -> None:
    if logits_NV.dim() != 2 or targets_N.shape != logits_NV.shape[:1]:
        raise ValueError(f"one target a row: logits {tuple(logits_NV.shape)}, targets {tuple(targets_N.shape)}")
    if not logits_NV.is_floating_point() or targets_N.dtype != torch.int64:
        raise ValueError(f"logits are floating-point and targets int64, not {logits_NV.dtype} and {targets_N.dtype}")
    if logits_NV.stride(1) != 1:
        raise ValueError("the entries of a row of logits have to lie side by side: call .contiguous()")


def _blocks(logits_NV: Tensor) -> list[slice]:
    elements = _BLOCK_ELEMENTS.get(logits_NV.device.type, _ELSEWHERE)
    rows = max(1, elements // max(1, logits_NV.shape[1]))
    return [slice(begin, begin + rows) for begin in range(0, logits_NV.shape[0], rows)]


@torch.library.custom_op("mmscale::softmax_statistics", mutates_args=())
def softmax_statistics(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """[3, N]: maximum, sum of exponentials relative to it, target's logit. Raises ValueError on shapes or dtypes."""
    _check(logits_NV, targets_N)
    if use_triton(logits_NV.device):
        from mmscale_kernels.gpu import softmax_rows as gpu

        return gpu.statistics(logits_NV, targets_N)
    rows, columns = logits_NV.shape
    found = torch.empty(3, rows, dtype=_widened(logits_NV.dtype), device=logits_NV.device)
    if columns == 0:
        found[0], found[1:] = float("-inf"), 0.0
        return found
    for block in _blocks(logits_NV):
        part = logits_NV[block].to(found.dtype)
        found[0, block] = part.amax(1)
        places = targets_N[block].clamp(0, columns - 1)
        here = places == targets_N[block]
        found[2, block] = part.gather(1, places[:, None])[:, 0].where(here, part.new_zeros(()))
        found[1, block] = part.sub(found[0, block, None]).exp_().sum(1)
    return found


@softmax_statistics.register_fake
def _(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    return torch.empty(3, logits_NV.shape[0], dtype=_widened(logits_NV.dtype), device=logits_NV.device)


@torch.library.custom_op("mmscale::softmax_gradient_", mutates_args=("logits_NV",))
def softmax_gradient_(logits_NV: Tensor, targets_N: Tensor, lse_N: Tensor) -> None:
    """Logits become d loss / d logits; `lse_N` is each row's log of the sum of all exponentials."""
    _check(logits_NV, targets_N)
    if use_triton(logits_NV.device):
        from mmscale_kernels.gpu import softmax_rows as gpu

        gpu.gradient_(logits_NV, targets_N, lse_N)
        return
    columns = logits_NV.shape[1]
    for block in _blocks(logits_NV) if columns else []:
        part = (logits_NV[block] - lse_N[block, None]).exp_()
        places = targets_N[block].clamp(0, columns - 1)
        here = (places == targets_N[block]).to(part.dtype)
        part.scatter_add_(1, places[:, None], -here[:, None])
        logits_NV[block] = part.to(logits_NV.dtype)


@softmax_gradient_.register_fake
def _(logits_NV: Tensor, targets_N: Tensor, lse_N: Tensor) -> None:
    return None
