"""Attention over packed rows, chosen once for each model.

transformers hands every layer's query, key and value to a registered function together with whatever
keyword arguments the model was called with. We pass a `PackedLayout`, so that the same model code runs
training rows (variable lengths end to end), prefill, and decoding from a `KeyValueCache`.

Legend: T tokens of the row, B sequences, L longest sequence, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from mmscale.errors import UserError
from mmscale.models.packed_layout import Collect, PackedLayout, Spread

PACKED_SDPA = "mmscale_packed_sdpa"
PACKED_FLASH = "mmscale_packed_varlen"
PACKED_TORCH = "mmscale_packed_torch_varlen"


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
            held.transpose(1, 2)[layout.owners, layout.places] = rows
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
    sizes = [batch * longest for batch, longest in layout.grids]
    laid = [Spread.apply(states, layout) for states in (query, key, value)]
    split = [places.split(sizes) if len(sizes) > 1 else [places] for places in laid]  # split's gradient is a copy
    parts = [
        _in_grid(q.unflatten(0, grid), k.unflatten(0, grid), v.unflatten(0, grid), scaling, dropout, window)
        for grid, q, k, v in zip(layout.grids, *split, strict=True)
    ]
    out: Tensor = Collect.apply(torch.cat(parts) if len(parts) > 1 else parts[0], layout)
    return out


def _in_grid(query: Tensor, key: Tensor, value: Tensor, scaling: float, dropout: float, window: int | None) -> Tensor:
    """One grid: query [B, L, H, D], key and value [B, L, K, D] -> [B * L, H, D].

    Padding stands after every real token and is therefore never attended to by one under the causal
    mask: no T x T mask is made.
    """
    longest, mask = query.shape[1], None
    if window is not None and window < longest:
        distance = torch.arange(longest, device=query.device)
        distance = distance[:, None] - distance[None, :]
        mask = (distance >= 0) & (distance < window)
    out = F.scaled_dot_product_attention(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[2] != key.shape[2],
    )
    return out.transpose(1, 2).flatten(0, 1)


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
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )


def _torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """The same by the flash-attention that PyTorch itself brings; 16-bit numbers, no dropout."""
    from torch.nn.attention.varlen import varlen_attn  # torch 2.10 and newer

    if query.dtype not in (torch.float16, torch.bfloat16) or dropout:
        kind = "dropout" if dropout else str(query.dtype).removeprefix("torch.")
        raise UserError(
            f"attention=torch_varlen computes in 16 bits and without dropout, not with {kind}: set dtype or precision to "
            f"bfloat16, or attention=auto"
        )
    ends, longest = layout.cu_seqlens, layout.longest
    limits = (-1 if window is None else window - 1, 0)
    grouped = query.shape[1] != key.shape[1]
    found = varlen_attn(
        query, key, value, ends, ends, longest, longest, scale=scaling, window_size=limits, enable_gqa=grouped
    )
    assert isinstance(found, Tensor)
    return found


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
AttentionInterface.register(PACKED_TORCH, _attend(_torch_varlen))
for _name in (PACKED_SDPA, PACKED_FLASH, PACKED_TORCH):
    AttentionMaskInterface.register(_name, lambda *args, **kwargs: None)


def choose(wanted: str, device: torch.device) -> str:
    """The registered name for a configured one; an explicit choice that cannot be met raises UserError."""
    flash = importlib.util.find_spec("flash_attn") is not None and device.type == "cuda"
    if wanted == "flash_attention_2" and not flash:
        raise UserError(
            "language_model.attention=flash_attention_2 needs a CUDA device and flash-attn: pip install flash-attn, or attention=auto"
        )
    if wanted == "torch_varlen":
        if device.type != "cuda" or importlib.util.find_spec("torch.nn.attention.varlen") is None:
            raise UserError(
                f"language_model.attention=torch_varlen needs a CUDA device and torch 2.10 or newer, not {device.type} and "
                f"{torch.__version__}: set attention=auto"
            )
        return PACKED_TORCH
    return PACKED_FLASH if flash and wanted != "packed_sdpa" else PACKED_SDPA
