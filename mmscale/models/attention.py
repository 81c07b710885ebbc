"""Attention over packed rows, chosen once for each model.

transformers hands every layer's query, key and value to a registered function together with whatever
keyword arguments the model was called with. We pass a `PackedLayout`, so that the same model code runs
training rows (variable lengths end to end), prefill, and decoding from a `KeyValueCache`.

Legend: T tokens of the row, B sequences, L longest sequence, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from mmscale.errors import UserError

PACKED_SDPA = "mmscale_packed_sdpa"
PACKED_FLASH = "mmscale_packed_varlen"


@dataclass(frozen=True)
class PackedLayout:
    """Where each sequence of a packed row lies."""

    lengths: tuple[int, ...]
    device: torch.device

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @cached_property
    def cu_seqlens(self) -> Tensor:
        """int32 [B+1], flash-attention's cumulated lengths."""
        lengths = torch.tensor([0, *self.lengths], device=self.device)
        return lengths.cumsum(0).to(torch.int32)

    @cached_property
    def slots(self) -> Tensor:
        """int64 [T]: place of each token in a right-padded [B, L] grid."""
        starts = [b * self.longest for b in range(len(self.lengths))]
        return torch.cat(
            [torch.arange(s, s + n, device=self.device) for s, n in zip(starts, self.lengths, strict=True)]
        )

    @cached_property
    def gather(self) -> Tensor:
        """int64 [B*L]: token behind each place of the grid; places of padding repeat token 0 (never attended to)."""
        grid = torch.zeros(len(self.lengths) * self.longest, dtype=torch.int64, device=self.device)
        grid[self.slots] = torch.arange(self.slots.numel(), device=self.device)
        return grid

    @cached_property
    def alike(self) -> list[PackedLayout]:
        """Layouts of sequences of about equal length: a grid of one of them wastes little on padding."""
        return [PackedLayout(tuple(self.lengths[b] for b in group), self.device) for group in self._groups]

    @cached_property
    def _groups(self) -> list[list[int]]:
        """Numbers of sequences, longest first, a new group where one is shorter than 4/5 of the group's longest."""
        groups: list[list[int]] = []
        for b in sorted(range(len(self.lengths)), key=lambda b: -self.lengths[b]):
            if groups and 5 * self.lengths[b] >= 4 * self.lengths[groups[-1][0]]:
                groups[-1].append(b)
            else:
                groups.append([b])
        return groups

    @cached_property
    def order(self) -> Tensor:
        """int64 [T]: tokens of the row, those of `alike` one layout after another."""
        starts = [0]
        for length in self.lengths:
            starts.append(starts[-1] + length)
        chosen = [torch.arange(starts[b], starts[b + 1], device=self.device) for group in self._groups for b in group]
        return torch.cat(chosen)


class KeyValueCache:
    """Static keys and values of B sequences of unequal length, [layers][B, K, capacity, D]; no padding on the left."""

    def __init__(self, layers: int, batch: int, capacity: int) -> None:
        self.capacity = capacity
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths = torch.zeros(batch, dtype=torch.int64)
        """int64 [B]: tokens held for each sequence."""
        self.longest = 0
        """At least the largest of them, known without asking the device."""

    def begin(self, lengths: Sequence[int], device: torch.device) -> Tensor:
        """Note what a prefill filled in; returns the lengths as int64 [B]."""
        self.lengths, self.longest = torch.tensor(lengths, device=device), max(lengths)
        return self.lengths

    def advance(self) -> None:
        """One more token of every sequence is held."""
        self.lengths, self.longest = self.lengths + 1, self.longest + 1

    def fill(self, layer: int, layout: PackedLayout, key_TKD: Tensor, value_TKD: Tensor) -> None:
        """Take over the keys and values of a prefill."""
        batch, (_, heads, width) = len(layout.lengths), key_TKD.shape
        for store, rows in ((self.keys, key_TKD), (self.values, value_TKD)):
            held = rows.new_zeros(batch, heads, self.capacity, width)
            grid = rows[layout.gather].view(batch, layout.longest, heads, width)
            held[:, :, : layout.longest] = grid.transpose(1, 2)
            store[layer] = held

    def append(self, layer: int, key_BKD: Tensor, value_BKD: Tensor) -> tuple[Tensor, Tensor]:
        """Write one new token of each sequence at its own length; returns all keys and values."""
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None and values is not None
        batch = torch.arange(keys.shape[0], device=keys.device)
        keys[batch, :, self.lengths] = key_BKD
        values[batch, :, self.lengths] = value_BKD
        return keys, values

    def keep(self, rows: Tensor) -> None:
        """Go on with some sequences only (int64 indices)."""
        self.lengths = self.lengths[rows]
        self.keys = [None if k is None else k[rows] for k in self.keys]
        self.values = [None if v is None else v[rows] for v in self.values]


def _padded_sdpa(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """Causal attention inside each sequence, by right-padded grids of sequences of about equal length.

    query [T, H, D], key and value [T, K, D] -> [T, H, D].
    """
    if len(layout.alike) == 1:
        return _in_grid(query, key, value, layout, scaling, dropout, window)
    sizes = [sum(part.lengths) for part in layout.alike]
    split = [states[layout.order].split(sizes) for states in (query, key, value)]
    grids = zip(*split, layout.alike, strict=True)
    parts = [_in_grid(q, k, v, part, scaling, dropout, window) for q, k, v, part in grids]
    return torch.empty_like(query).index_copy(0, layout.order, torch.cat(parts))


def _in_grid(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """The same in one right-padded grid.

    Padding stands after every real token and is therefore never attended to by one under the causal
    mask: no T x T mask is made.
    """
    batch, longest = len(layout.lengths), layout.longest

    def grid(rows: Tensor) -> Tensor:
        return rows[layout.gather].view(batch, longest, *rows.shape[1:]).transpose(1, 2)

    mask = None
    if window is not None and window < longest:
        distance = torch.arange(longest, device=query.device)
        distance = distance[:, None] - distance[None, :]
        mask = (distance >= 0) & (distance < window)
    out = F.scaled_dot_product_attention(
        grid(query),
        grid(key),
        grid(value),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).reshape(batch * longest, *query.shape[1:])[layout.slots]


def _flash_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """The same by flash-attention's variable-length kernel; [T, H, D] like `_padded_sdpa`."""
    from flash_attn import flash_attn_varlen_func  # optional: extra `gpu`

    limits = (-1, -1) if window is None else (window - 1, 0)
    return flash_attn_varlen_func(
        query,
        key,
        value,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.longest,
        layout.longest,
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
        window_size=limits,
    )


def _decode_step(
    query_BHD: Tensor, keys: Tensor, values: Tensor, cache: KeyValueCache, scaling: float, window: int | None
) -> Tensor:
    """One new token of each sequence against its cache: [B, H, D]; the cache's lengths count the tokens before it."""
    lengths, held = cache.lengths, cache.longest + 1
    place = torch.arange(held, device=keys.device)
    mask = place[None, :] <= lengths[:, None]
    if window is not None:
        mask &= place[None, :] > lengths[:, None] - window
    out = F.scaled_dot_product_attention(
        query_BHD[:, :, None],
        keys[:, :, :held],
        values[:, :, :held],
        attn_mask=mask[:, None, None],
        scale=scaling,
        enable_gqa=query_BHD.shape[1] != keys.shape[1],
    )
    return out[:, :, 0]


def _attend(varlen: Any) -> Any:
    """The function transformers calls, around one variable-length implementation."""

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        layout: PackedLayout | None = None,
        cache: KeyValueCache | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        # query arrives as [1, H, T, D], key and value as [1, K, T, D]
        rows = [states[0].transpose(0, 1) for states in (query, key, value)]
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        layer = int(getattr(module, "layer_idx", 0))
        if layout is None:
            assert cache is not None, "a packed model is called with a layout (train, prefill) or a cache (decode)"
            keys, values = cache.append(layer, rows[1], rows[2])
            out = _decode_step(rows[0], keys, values, cache, scale, sliding_window)
        else:
            if cache is not None:
                cache.fill(layer, layout, rows[1], rows[2])
            out = varlen(*rows, layout, scale, dropout, sliding_window)
        return out[None], None

    return attention


AttentionInterface.register(PACKED_SDPA, _attend(_padded_sdpa))
AttentionInterface.register(PACKED_FLASH, _attend(_flash_varlen))
for _name in (PACKED_SDPA, PACKED_FLASH):
    AttentionMaskInterface.register(_name, lambda *args, **kwargs: None)


def choose(wanted: str, device: torch.device) -> str:
    """The registered name for a configured one; an explicit choice that cannot be met raises UserError."""
    flash = importlib.util.find_spec("flash_attn") is not None and device.type == "cuda"
    if wanted == "flash_attention_2" and not flash:
        raise UserError(
            "language_model.attention=flash_attention_2 needs a CUDA device and flash-attn: pip install flash-attn, or attention=auto"
        )
    return PACKED_FLASH if flash and wanted != "packed_sdpa" else PACKED_SDPA
