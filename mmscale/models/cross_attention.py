"""Attention of the tokens of each sequence to all tokens of another packed row that belong to it, without a causal mask.

Each library's variable-length kernel where it takes such rows; elsewhere grids of sequences of about equal length and torch's SDPA.

Legend: B sequences, Q queries of each, T queries of all, E tokens of the other row, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscale.models.attention import PACKED_FLASH, PACKED_FLASH_3, PACKED_TORCH_OR_SDPA, as_autocast, choose
from mmscale.models.packed_layout import PackedLayout, TakeRows, ToGrids
from mmscale.models.varlen import takes_parameter, torch_takes
from mmscale.transfer import tensor_on


def cross_attention(query_BQHD: Tensor, key_EHD: Tensor, value_EHD: Tensor, keys: PackedLayout) -> Tensor:
    """[B, Q, H, D] of as many queries of every sequence; `keys` says which tokens of the other row belong to each."""
    count, each, _, width = query_BQHD.shape
    queries = PackedLayout((each,) * count, query_BQHD.device)
    read = packed_cross_attention(query_BQHD.flatten(0, 1), key_EHD, value_EHD, queries, keys, width**-0.5)
    return read.view(query_BQHD.shape)


def packed_cross_attention(
    query_THD: Tensor, key_EKD: Tensor, value_EKD: Tensor, queries: PackedLayout, keys: PackedLayout, scaling: float
) -> Tensor:
    """[T, H, D]; `queries` and `keys` say which tokens of the two rows belong to each sequence."""
    query, key, value = as_autocast([query_THD, key_EKD, value_EKD])
    chosen = choose("auto", query.device) if torch_takes(query, key, value, 0.0) else ""
    return _BY_NAME.get(chosen, by_grids)(query, key, value, queries, keys, scaling)


def by_grids(
    query_THD: Tensor, key_EKD: Tensor, value_EKD: Tensor, queries: PackedLayout, keys: PackedLayout, scaling: float
) -> Tensor:
    """By torch's SDPA; padding of keys is behind a mask, where there is any, and that of queries is dropped.

    The query heads that share a key head are laid one after another, as more queries of it.
    """
    if min(queries.lengths) == queries.longest:
        queries = queries.grouped_as(keys)
    else:
        keys = keys.grouped_as(queries)
    asked = ToGrids.apply(query_THD, queries).split([count * longest for count, longest in queries.grids])
    sizes = [count * longest for count, longest in keys.grids]
    held = [ToGrids.apply(states, keys).split(sizes) for states in (key_EKD, value_EKD)]
    parts, begin = [], 0
    for query, key, value, (count, _longest) in zip(asked, *held, keys.grids, strict=True):
        lengths = [keys.lengths[b] for b in keys.order[begin : begin + count]]
        parts.append(_in_grid(query.unflatten(0, (count, -1)), key, value, lengths, scaling))
        begin += count
    out: Tensor = TakeRows.apply(torch.cat(parts), queries.slots)
    return out


def _in_grid(query_BQHD: Tensor, key: Tensor, value: Tensor, lengths: list[int], scaling: float) -> Tensor:
    """One grid: [B * Q, H, D] of queries, and keys and values [B * L, K, D] of which each sequence has its length."""
    count, longest = len(lengths), max(lengths)
    key, value = (states.unflatten(0, (count, longest)).transpose(1, 2) for states in (key, value))
    laid = query_BQHD.transpose(1, 2)
    mask = None
    if min(lengths) < longest:
        places = torch.arange(longest, device=laid.device)
        mask = places < tensor_on(laid.device, lengths)[:, None, None, None]
    shared = laid.reshape(count, key.shape[1], -1, laid.shape[3])
    out = F.scaled_dot_product_attention(shared, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(laid.shape).transpose(1, 2).flatten(0, 1)


def _ends(queries: PackedLayout, keys: PackedLayout) -> tuple[Tensor, Tensor, int, int]:
    """Cumulated lengths of queries and keys, and the longest of each, as the libraries take them."""
    return queries.cu_seqlens, keys.cu_seqlens, queries.longest, keys.longest


def _flash_2(
    query_THD: Tensor, key_EKD: Tensor, value_EKD: Tensor, queries: PackedLayout, keys: PackedLayout, scaling: float
) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # optional: extra `gpu`

    exact = torch.are_deterministic_algorithms_enabled()
    rows = query_THD, key_EKD, value_EKD
    output: Tensor = flash_attn_varlen_func(*rows, *_ends(queries, keys), softmax_scale=scaling, deterministic=exact)
    return output


def _flash_3(
    query_THD: Tensor, key_EKD: Tensor, value_EKD: Tensor, queries: PackedLayout, keys: PackedLayout, scaling: float
) -> Tensor:
    from flash_attn_interface import flash_attn_varlen_func  # the package of flash-attention's folder hopper/

    exact = torch.are_deterministic_algorithms_enabled()
    rows = query_THD, key_EKD, value_EKD
    output = flash_attn_varlen_func(*rows, *_ends(queries, keys), softmax_scale=scaling, deterministic=exact)
    out: Tensor = output[0] if isinstance(output, tuple) else output  # older ones return the log-sum-exp too
    return out


def _torch(
    query_THD: Tensor, key_EKD: Tensor, value_EKD: Tensor, queries: PackedLayout, keys: PackedLayout, scaling: float
) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.11 and newer

    sharing = query_THD.shape[1] // key_EKD.shape[1]
    grouped: dict[str, Any] = {}
    if sharing > 1 and takes_parameter(varlen_attn, "enable_gqa"):
        grouped["enable_gqa"] = True
    elif sharing > 1:
        key_EKD, value_EKD = (states.repeat_interleave(sharing, dim=1) for states in (key_EKD, value_EKD))
    output = varlen_attn(query_THD, key_EKD, value_EKD, *_ends(queries, keys), scale=scaling, **grouped)
    assert isinstance(output, Tensor)
    return output


_BY_NAME: dict[str, Callable[[Tensor, Tensor, Tensor, PackedLayout, PackedLayout, float], Tensor]] = {
    PACKED_FLASH: _flash_2,
    PACKED_FLASH_3: _flash_3,
    PACKED_TORCH_OR_SDPA: _torch,
}
