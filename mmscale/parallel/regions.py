"""How activations enter and leave layers that are cut over a tensor group.

Without sequence parallelism every rank holds all tokens between them: the gradient of a column-parallel layer's input
and the output of a row-parallel one are all-reduced (Shoeybi et al. 2019, arXiv 1909.08053, figure 3). With it each
rank holds a stretch of the tokens, and the same bytes travel as an all-gather and a reduce-scatter (Korthikanti et al.
2022, arXiv 2205.05198, section 4.2.2). megatron-core's functions for the latter ask for a CUDA device.

Activations are [1, T, D]; a stretch is [1, t, D], t = T / ranks rounded up, its end padding on the last ranks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmscale.parallel.context import ParallelContext


class Regions:
    """The four passages of one model, and how many tokens the row on its way has."""

    def __init__(self, context: ParallelContext) -> None:
        self.group, self.rank, self.size = context.tensor_group, context.tensor_rank, context.tensor_size
        self.sequence_parallel = context.sequence_parallel
        self.tokens = 0
        self.storage_beside = 0
        """Address of the storage of what went through `beside` last: a reference would keep a row's activations alive."""

    @property
    def split(self) -> bool:
        """Whether activations between cut layers are cut along tokens; never where nothing is kept for a backward pass."""
        return self.sequence_parallel and torch.is_grad_enabled()

    def begin(self, whole: Tensor) -> Tensor:
        """From all tokens, which every rank holds, to what layers between the cut ones work on."""
        self.tokens = whole.shape[1]
        return self._pass(whole, self._stretch, self._gathered) if self.split else whole

    def end(self, part: Tensor) -> Tensor:
        """Back to all tokens on every rank, each of which then does the same with them."""
        return self._pass(part, self._gathered, self._stretch) if self.split else part

    def enter(self, part: Tensor) -> Tensor:
        """Into column-parallel layers, which need all tokens: g of Korthikanti et al., f of Shoeybi et al."""
        return self._pass(part, self._gathered, self._scattered) if self.split else self.copy(part)

    def copy(self, whole: Tensor) -> Tensor:
        """The same where every rank holds all tokens, as at the head."""
        return self._pass(whole, _same, self._all_reduced)

    def beside(self, whole: Tensor) -> Tensor:
        """Into column-parallel layers that read it beside their module's own input; on every rank alike."""
        entered = self.copy(whole)
        self.storage_beside = entered.untyped_storage()._cdata
        return entered

    def leave(self, partial: Tensor) -> Tensor:
        """Out of a row-parallel layer: the sum over the ranks; the conjugate of `enter`."""
        if self.split:
            return self._pass(partial, self._scattered, self._gathered)
        return self._pass(partial, self._all_reduced, _same)

    @staticmethod
    def _pass(value: Tensor, forth: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        passed: Tensor = _Passage.apply(value, forth, back)
        return passed

    def _all_reduced(self, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def _stretch(self, whole: Tensor) -> Tensor:
        """This rank's tokens."""
        return self._padded(whole).chunk(self.size, 1)[self.rank].contiguous()

    def _padded(self, whole: Tensor) -> Tensor:
        missing = -whole.shape[1] % self.size
        return torch.nn.functional.pad(whole, (0, 0, 0, missing)) if missing else whole

    def _gathered(self, part: Tensor) -> Tensor:
        whole = part.new_empty(self.size * part.shape[1], part.shape[2])
        _all_gather(whole, part[0].contiguous(), group=self.group)
        return whole[None, : self.tokens]

    def _scattered(self, partial: Tensor) -> Tensor:
        padded = self._padded(partial)
        part = padded.new_empty(padded.shape[1] // self.size, padded.shape[2])
        _reduce_scatter(part, padded[0].contiguous(), group=self.group)
        return part[None]


# torch 2.13 renames both and warns of the old names
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor


class _Passage(torch.autograd.Function):
    """One way forward, another one back."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, forth: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return forth(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.back(gradient), None, None


def _same(value: Tensor) -> Tensor:
    return value.view_as(value)
