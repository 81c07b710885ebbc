"""Summed cross entropy of chosen rows through a language model's head; logits exist a chunk at a time.

    loss = sum_n  log sum_v exp(W h_n + b)_v  -  (W h_n + b)_target_n

A chunk's logits turn into their own gradient at once, and from there into that of the hidden states, and of weight and
bias where these are trained: the head's product runs once forward, and nothing of size N x V is kept for the backward
pass. With a stretch, each rank of a group holds some rows of the head; two all-reduces of n and 2n numbers per chunk
join them (Shoeybi et al. 2019, arXiv 1909.08053, section 3), and d hidden is this rank's part of a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from mmscale_kernels.softmax_rows import softmax_gradient_, softmax_statistics

CHUNK_BYTES = 2**28
"""Bytes of logits at a time: 2,048 rows of LLaMA-2's 32,000 entries in float32, large enough for a full-speed product."""


_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])


@dataclass(frozen=True)
class VocabularyShard:
    """The rows of the head that this rank of a group holds."""

    group: Any
    first: int
    """Id of its first row."""
    longest: int
    """Rows of the rank that holds most: ranks have to agree on the chunks."""


def linear_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    bias_V: Tensor | None = None,
    vocabulary_shard: VocabularyShard | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    softcap: float | None = None,
) -> Tensor:
    """Scalar loss, float32 (float64 for such inputs), the same on every rank of a group.

    With a softcap c, logits are c tanh(z / c) of the products z (Gemma 2, arXiv 2408.00118, section 2).

    hidden_ND, weight_VD, bias_V floating-point of one dtype, or cast to autocast's; targets_N int64, ids in the whole
    vocabulary, one for every row. Raises ValueError on shapes or dtypes that do not fit.
    """
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        hidden_ND, weight_VD = hidden_ND.to(low), weight_VD.to(low)
        bias_V = None if bias_V is None else bias_V.to(low)
    _check(hidden_ND, weight_VD, targets_N, bias_V)
    if not torch.is_grad_enabled():  # a Function is told that its inputs need gradients all the same
        hidden_ND, weight_VD = hidden_ND.detach(), weight_VD.detach()
        bias_V = None if bias_V is None else bias_V.detach()
    longest = weight_VD.shape[0] if vocabulary_shard is None else vocabulary_shard.longest
    rows = max(1, chunk_bytes // (max(1, longest) * weight_VD.element_size()))
    with torch.autocast(device, enabled=False):
        loss: Tensor = _LinearCrossEntropy.apply(
            hidden_ND, weight_VD, bias_V, targets_N, vocabulary_shard, rows, softcap
        )
    return loss


def _check(hidden_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, bias_V: Tensor | None) -> None:
    shapes = f"hidden {tuple(hidden_ND.shape)}, weight {tuple(weight_VD.shape)}, targets {tuple(targets_N.shape)}"
    if hidden_ND.dim() != 2 or weight_VD.dim() != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(f"hidden [N, D] and weight [V, D] are needed: {shapes}")
    if targets_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"one target a row is needed: {shapes}")
    if bias_V is not None and bias_V.shape != weight_VD.shape[:1]:
        raise ValueError(f"one bias per row of the weight is needed: {shapes}, bias {tuple(bias_V.shape)}")
    dtypes = {hidden_ND.dtype, weight_VD.dtype} | ({bias_V.dtype} if bias_V is not None else set())
    if len(dtypes) > 1:
        raise ValueError(f"hidden states, weight and bias of one dtype are needed, not {', '.join(map(str, dtypes))}")


def _joined(statistics: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """(log of the sum of all exponentials, target's logit) of each row, over all ranks."""
    largest, total, picked = statistics
    if group is not None:
        own, largest = largest, largest.clone()
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
        both = torch.stack([total * (own - largest).exp(), picked])
        dist.all_reduce(both, group=group)
        total, picked = both
    return largest + total.log(), picked


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made beside the loss, for an upstream gradient of 1; the backward pass scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        vocabulary_shard: VocabularyShard | None,
        rows: int,
        softcap: float | None,
    ) -> Tensor:
        wide = torch.promote_types(hidden_ND.dtype, torch.float32)
        loss = torch.zeros((), dtype=wide, device=hidden_ND.device)
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        d_hidden = torch.empty_like(hidden_ND) if for_hidden else None
        d_weight: Tensor | None = None
        d_bias = torch.zeros_like(bias_V, dtype=wide) if for_bias and bias_V is not None else None
        group, first = (None, 0) if vocabulary_shard is None else (vocabulary_shard.group, vocabulary_shard.first)
        for begin in range(0, hidden_ND.shape[0], rows):
            hidden, targets = hidden_ND[begin : begin + rows], targets_N[begin : begin + rows] - first
            logits = F.linear(hidden, weight_VD, bias_V)
            slope = None if softcap is None else _cap_(logits, softcap)
            lse, picked = _joined(softmax_statistics(logits, targets), group)
            loss += (lse - picked).sum()
            if not (for_hidden or for_weight or for_bias):
                continue
            softmax_gradient_(logits, targets, lse)
            if slope is not None:
                logits *= slope
            if d_hidden is not None:
                torch.mm(logits, weight_VD, out=d_hidden[begin : begin + rows])
            if for_weight:
                d_weight = _added(d_weight, logits.T, hidden, wide if rows < hidden_ND.shape[0] else hidden.dtype)
            if d_bias is not None:
                d_bias += logits.sum(0, dtype=wide)
            del logits, slope
        if for_weight and d_weight is None:  # there are no rows
            d_weight = torch.zeros_like(weight_VD)
        ctx.save_for_backward(d_hidden, d_weight, d_bias)
        ctx.dtype = weight_VD.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (*(_scaled(one, gradient, ctx.dtype) for one in ctx.saved_tensors), None, None, None, None)


def _cap_(products: Tensor, softcap: float) -> Tensor:
    """Products turn into capped logits c tanh(z / c); returns the slope of that, 1 - tanh(z / c)^2."""
    products.div_(softcap).tanh_()
    slope = 1 - products * products
    products.mul_(softcap)
    return slope


def _added(total: Tensor | None, left: Tensor, right: Tensor, wide: torch.dtype) -> Tensor:
    """total + left @ right, written into the total, which may be wider than the factors; of none, a new one in `wide`."""
    if total is None:
        if wide == right.dtype:
            return left @ right
        return torch.mm(left, right, out_dtype=wide) if _sums_wider(right) else (left @ right).to(wide)
    if total.dtype == right.dtype:
        return total.addmm_(left, right)
    if _sums_wider(right):
        # the total is what is added to and what is written, as in addmm_: cuBLAS adds to it in place
        return torch.ops.aten.addmm.dtype_out(total, left, right, wide, out=total)
    return total.add_(left @ right)


def _sums_wider(factor: Tensor) -> bool:
    """Whether cuBLAS adds products of such 16-bit factors to a float32 total: a product and a sum apart are two passes more.

    Up to torch 2.10 what is added to had to be of the factors' own dtype; TunableOp and ROCm refuse it still.
    """
    if factor.device.type != "cuda" or torch.version.hip or torch.compiler.is_compiling():
        return False
    return _TORCH >= (2, 11) and not torch.cuda.tunable.is_enabled()


def _scaled(value: Tensor | None, factor: Tensor, dtype: torch.dtype) -> Tensor | None:
    if value is None:
        return None
    # a factor without dimensions would be rounded to a 16-bit value's dtype first, on a GPU
    return torch.mul(value, factor.reshape(1), out=torch.empty_like(value, dtype=dtype))
