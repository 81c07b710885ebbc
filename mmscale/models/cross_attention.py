"""Attention of a few queries of each sequence to all tokens of another packed row that belong to it, without a causal mask.

Each library's variable-length kernel where it takes such rows; elsewhere grids of keys of about equal length and torch's SDPA.

Legend: B sequences, Q queries of each, E tokens of the other row, L longest of a grid, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscale.models.attention import PACKED_FLASH, PACKED_FLASH_3, PACKED_TORCH_OR_SDPA, as_autocast, choose
from mmscale.models.packed_layout import PackedLayout, ToGrids
from mmscale.models.varlen import torch_takes
from mmscale.transfer import tensor_on


def cross_attention(query_BQHD: Tensor, key_EHD: Tensor, value_EHD: Tensor, keys: PackedLayout) -> Tensor:
    """[B, Q, H, D]; `keys` says which tokens of the other row belong to each sequence."""
    query, key, value = as_autocast([query_BQHD, key_EHD, value_EHD])
    chosen = choose("auto", query.device) if torch_takes(query, key, value, 0.0) else ""
    return _BY_NAME.get(chosen, by_grids)(query, key, value, keys)


def by_grids(query_BQHD: Tensor, key_EHD: Tensor, value_EHD: Tensor, keys: PackedLayout) -> Tensor:
    """By torch's SDPA; padding is behind a mask, where there is any."""
    device, sizes = query_BQHD.device, [count * length for count, length in keys.grids]
    order = tensor_on(device, keys.order)
    asked = query_BQHD.index_select(0, order).transpose(1, 2)
    held = [ToGrids.apply(states, keys).split(sizes) for states in (key_EHD, value_EHD)]
    parts, begin = [], 0
    for (count, longest), key, value in zip(keys.grids, *held, strict=True):
        key, value = (states.unflatten(0, (count, longest)).transpose(1, 2) for states in (key, value))
        lengths = [keys.lengths[b] for b in keys.order[begin : begin + count]]
        mask = None
        if min(lengths) < longest:
            mask = torch.arange(longest, device=device) < tensor_on(device, lengths)[:, None, None, None]
        parts.append(F.scaled_dot_product_attention(asked[begin : begin + count], key, value, attn_mask=mask))
        begin += count
    return torch.cat(parts).index_select(0, order.argsort()).transpose(1, 2)


def _ends(query_BQHD: Tensor, keys: PackedLayout) -> tuple[Tensor, Tensor, int, int]:
    """Cumulated lengths of queries and keys, and the longest of each, as the libraries take them."""
    count, each = query_BQHD.shape[:2]
    queries = PackedLayout((each,) * count, query_BQHD.device)
    return queries.cu_seqlens, keys.cu_seqlens, each, keys.longest


def _flash_2(query_BQHD: Tensor, key_EHD: Tensor, value_EHD: Tensor, keys: PackedLayout) -> Tensor:
    from flash_attn import flash_attn_varlen_func  # optional: extra `gpu`

    exact = torch.are_deterministic_algorithms_enabled()
    rows = query_BQHD.flatten(0, 1), key_EHD, value_EHD
    output: Tensor = flash_attn_varlen_func(*rows, *_ends(query_BQHD, keys), deterministic=exact)
    return output.view_as(query_BQHD)


def _flash_3(query_BQHD: Tensor, key_EHD: Tensor, value_EHD: Tensor, keys: PackedLayout) -> Tensor:
    from flash_attn_interface import flash_attn_varlen_func  # the package of flash-attention's folder hopper/

    exact = torch.are_deterministic_algorithms_enabled()
    rows = query_BQHD.flatten(0, 1), key_EHD, value_EHD
    output = flash_attn_varlen_func(*rows, *_ends(query_BQHD, keys), deterministic=exact)
    out: Tensor = output[0] if isinstance(output, tuple) else output  # older ones return the log-sum-exp too
    return out.view_as(query_BQHD)


def _torch(query_BQHD: Tensor, key_EHD: Tensor, value_EHD: Tensor, keys: PackedLayout) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn  # torch 2.11 and newer

    output = varlen_attn(query_BQHD.flatten(0, 1), key_EHD, value_EHD, *_ends(query_BQHD, keys))
    assert isinstance(output, Tensor)
    return output.view_as(query_BQHD)


_BY_NAME: dict[str, Callable[[Tensor, Tensor, Tensor, PackedLayout], Tensor]] = {
    PACKED_FLASH: _flash_2,
    PACKED_FLASH_3: _flash_3,
    PACKED_TORCH_OR_SDPA: _torch,
}
