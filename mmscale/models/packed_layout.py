"""Where the sequences of a packed row lie, and how they are laid into right-padded grids and back.

Legend: T tokens of the row, B sequences, L longest sequence, P places of the grids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mmscale.transfer import tensor_on


@dataclass(frozen=True)
class PackedLayout:
    """Where each sequence of a packed row lies."""

    lengths: tuple[int, ...]
    device: torch.device
    groups: tuple[tuple[int, ...], ...] | None = None
    """Numbers of the sequences that share a right-padded grid, where others say so."""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """int32 [B+1], flash-attention's cumulated lengths."""
        lengths = tensor_on(self.device, [0, *self.lengths])
        return lengths.cumsum(0).to(torch.int32)

    @cached_property
    def owners(self) -> Tensor:
        """int64 [T]: sequence of each token."""
        numbers = torch.arange(len(self.lengths), device=self.device)
        return numbers.repeat_interleave(self._each, output_size=sum(self.lengths))

    @cached_property
    def places(self) -> Tensor:
        """int64 [T]: place of each token in its sequence."""
        return torch.arange(sum(self.lengths), device=self.device) - (self._each.cumsum(0) - self._each)[self.owners]

    @cached_property
    def _each(self) -> Tensor:
        return tensor_on(self.device, self.lengths)

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Sequences that share a right-padded grid."""
        if self.groups is not None:
            return [list(group) for group in self.groups]
        return _alike(self.lengths, _GRID.get(self.device.type, _GRID_ELSEWHERE))

    def grouped_as(self, other: PackedLayout) -> PackedLayout:
        """The same, in grids of the same sequences as another's."""
        return PackedLayout(self.lengths, self.device, tuple(map(tuple, other._groups)))

    @property
    def grids(self) -> list[tuple[int, int]]:
        """(sequences, places of each) of the grids, which lie one after another; P places in all."""
        return [(len(group), self._longest_of(group)) for group in self._groups]

    def _longest_of(self, group: list[int]) -> int:
        return max(self.lengths[b] for b in group)

    @property
    def order(self) -> list[int]:
        """Numbers of the sequences as the grids hold them."""
        return [b for group in self._groups for b in group]

    @cached_property
    def slots(self) -> Tensor:
        """int64 [T]: place of each token in the grids."""
        starts, begin = [0] * len(self.lengths), 0
        for group in self._groups:
            longest = self._longest_of(group)
            for b in group:
                starts[b] = begin
                begin += longest
        return tensor_on(self.device, starts)[self.owners] + self.places

    @cached_property
    def gather(self) -> Tensor:
        """int64 [P]: token behind each place of the grids; places of padding repeat token 0 (never attended to)."""
        tokens = torch.zeros(sum(b * n for b, n in self.grids), dtype=torch.int64, device=self.device)
        tokens[self.slots] = torch.arange(self.slots.numel(), device=self.device)
        return tokens


_NEARLY = 19 / 20
"""Sequences of at least this share of the longest one's length are never parted from it: few places to look at."""
_GRID = {"cpu": 1 << 13}
"""Entries of score matrices that are taken to last as long as a grid more. From 2^11 to 2^15, steps of tinyworld's and of MGSM-like
lengths took the same time within 2 % (an AMD EPYC, one thread): more grids than that gain nothing."""
_GRID_ELSEWHERE = 1 << 18
"""Some ten launches of 5 us, where an entry of 32 heads of 128 takes 0.2 ns at 300 TFLOP/s: arithmetic, not measured."""


def _alike(lengths: Sequence[int], a_grid: int) -> list[list[int]]:
    """Numbers of sequences, longest first, in those groups of neighbouring lengths whose grids take least: their entries,
    and as much as `a_grid` entries each.
    """
    order = sorted(range(len(lengths)), key=lambda b: -lengths[b])
    longest = [lengths[b] for b in order]
    starts = [0]
    for i, length in enumerate(longest):
        if length < _NEARLY * longest[starts[-1]]:
            starts.append(i)
    ends = [*starts[1:], len(order)]
    least, begin = (
        [0],
        [],
    )  # of what lies before each end: entries of its best groups, and where the last of them begins
    for k, end in enumerate(ends):
        entries = [least[j] + a_grid + (end - starts[j]) * longest[starts[j]] ** 2 for j in range(k + 1)]
        best = min(range(k + 1), key=entries.__getitem__)
        least.append(entries[best])
        begin.append(best)
    groups, k = [], len(ends)
    while k > 0:
        groups.append(order[starts[begin[k - 1]] : ends[k - 1]])
        k = begin[k - 1]
    return groups[::-1]


class ToGrids(torch.autograd.Function):
    """Rows [T, ...] to the places [P, ...] of grids. No gradient comes from padding: nothing real attends to it."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layout: PackedLayout) -> Tensor:
        ctx.layout = layout
        return rows.index_select(0, layout.gather)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.index_select(0, ctx.layout.slots), None


class TakeRows(torch.autograd.Function):
    """Rows [N, ...] of [T, ...] by their numbers (int64 [N], none twice)."""

    @staticmethod
    def forward(ctx: Any, all_rows: Tensor, numbers: Tensor) -> Tensor:
        ctx.numbers, ctx.total = numbers, all_rows.shape[0]
        return all_rows.index_select(0, numbers)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _among_zeros(gradient, ctx.numbers, ctx.total), None


class PutRows(torch.autograd.Function):
    """Rows [N, ...] to their numbers (int64 [N], none twice) among T, where the others are zero: [T, ...]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, numbers: Tensor, total: int) -> Tensor:
        ctx.numbers = numbers
        return _among_zeros(rows, numbers, total)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient.index_select(0, ctx.numbers), None, None


def _among_zeros(rows: Tensor, numbers: Tensor, total: int) -> Tensor:
    return rows.new_zeros(total, *rows.shape[1:]).index_copy_(0, numbers, rows)
