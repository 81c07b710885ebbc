"""Causal attention inside each sequence of a packed row, by each library that has it: [T, H, D] from [T, H, D] and [T, K, D].

Legend: T tokens of the row, B sequences, L longest sequence, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscale.errors import UserError
from mmscale.models.packed_layout import PackedLayout, TakeRows, ToGrids

HALVES = (torch.float16, torch.bfloat16)
"""What flash-attention computes in."""


def padded_sdpa(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """By right-padded grids of sequences of about equal length, and torch's SDPA."""
    sizes = [batch * longest for batch, longest in layout.grids]
    laid = [ToGrids.apply(states, layout) for states in (query, key, value)]
    split = [places.split(sizes) if len(sizes) > 1 else [places] for places in laid]  # split's gradient is a copy
    parts = [
        _in_grid(q.unflatten(0, grid), k.unflatten(0, grid), v.unflatten(0, grid), scaling, dropout, window)
        for grid, q, k, v in zip(layout.grids, *split, strict=True)
    ]
    out: Tensor = TakeRows.apply(torch.cat(parts) if len(parts) > 1 else parts[0], layout.slots)
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


def flash_2(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """By flash-attention's variable-length kernel (Dao 2023, arXiv 2307.08691)."""
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


def flash_3(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """By flash-attention 3, for Hopper (Shah et al. 2024, arXiv 2407.08608); it knows no dropout."""
    from flash_attn_interface import flash_attn_varlen_func  # the package of flash-attention's folder hopper/

    if dropout:
        raise UserError(
            "attention=flash_attention_3 has no dropout: set it to 0 in the model's config, or attention=auto"
        )
    ends, longest = layout.cu_seqlens, layout.longest
    output = flash_attn_varlen_func(
        query,
        key,
        value,
        ends,
        ends,
        longest,
        longest,
        softmax_scale=scaling,
        causal=True,
        window_size=(-1, -1) if window is None else (window - 1, 0),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    out: Tensor = output[0] if isinstance(output, tuple) else output  # older ones return the log-sum-exp too
    return out


def torch_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """By the flash-attention that PyTorch itself brings; 16-bit numbers, no dropout."""
    from torch.nn.attention.varlen import varlen_attn  # torch 2.11 and newer

    if query.dtype not in HALVES or dropout:
        kind = "dropout" if dropout else str(query.dtype).removeprefix("torch.")
        raise UserError(
            f"attention=torch_varlen computes in 16 bits and without dropout, not with {kind}: set dtype or precision to "
            f"bfloat16, or attention=auto"
        )
    ends, longest = layout.cu_seqlens, layout.longest
    limits = (-1 if window is None else window - 1, 0)
    sharing = query.shape[1] // key.shape[1]
    grouped: dict[str, Any] = {}
    if sharing > 1 and takes_parameter(varlen_attn, "enable_gqa"):
        grouped["enable_gqa"] = True
    elif sharing > 1:
        key, value = (states.repeat_interleave(sharing, dim=1) for states in (key, value))
    output = varlen_attn(query, key, value, ends, ends, longest, longest, scale=scaling, window_size=limits, **grouped)
    assert isinstance(output, Tensor)
    return output


def torch_varlen_or_sdpa(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scaling: float, dropout: float, window: int | None
) -> Tensor:
    """By PyTorch's flash-attention where it takes these rows, else by grids.

    Both are deterministic under torch.use_deterministic_algorithms: the flash-attention behind either reads it itself.
    """
    attend = torch_varlen if torch_takes(query, key, value, dropout) else padded_sdpa
    return attend(query, key, value, layout, scaling, dropout, window)


_WIDEST = 192
"""Head width: for wider ones GPUs with little shared memory have no backward pass of PyTorch's flash-attention."""


def torch_takes(query: Tensor, key: Tensor, value: Tensor, dropout: float) -> bool:
    """Whether PyTorch's flash-attention has a forward and a backward pass for such rows, on every GPU that has it."""
    width = query.shape[-1]
    alike = query.dtype == key.dtype == value.dtype and width == key.shape[-1] == value.shape[-1]
    return alike and query.dtype in HALVES and not dropout and width % 8 == 0 and width <= _WIDEST


def torch_has_windows() -> bool:
    """Whether PyTorch's own function is there and takes a window: since torch 2.11."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return takes_parameter(varlen_attn, "window_size")


@functools.cache
def takes_parameter(function: Callable[..., Any], parameter: str) -> bool:
    """Whether a library's function has a parameter; torch 2.11's varlen_attn has no enable_gqa: keys are repeated for it."""
    return parameter in inspect.signature(function).parameters
