"""Attention of packed models, chosen once for each model.

transformers hands every layer's query, key and value to a registered function together with whatever
keyword arguments the model was called with. We pass a `PackedLayout`, so that the same model code runs
training rows (variable lengths end to end) and prefill, or a `KeyValueCache` with the places of new tokens. The
keywords are ours by name: transformers' own change ("cache" became one of its layers' in 5.24).

Legend: N new tokens, Q of each sequence, B sequences, H heads, K key/value heads, D head width.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from mmscale.errors import UserError
from mmscale.models import varlen
from mmscale.models.key_value_cache import KeyValueCache, NewTokens
from mmscale.models.packed_layout import PackedLayout

if TYPE_CHECKING:
    from mmscale.models.layer_fusion import FusedAttention, HeldAttention

PACKED_SDPA = "mmscale_packed_sdpa"
PACKED_FLASH = "mmscale_packed_varlen"
PACKED_FLASH_3 = "mmscale_packed_varlen_3"
PACKED_TORCH = "mmscale_packed_torch_varlen"
PACKED_TORCH_OR_SDPA = "mmscale_packed_torch_varlen_or_sdpa"

# torch prefers cuDNN's attention on Hopper and later, which compiles a kernel for every shape: a packed row or a decoding step
# nearly always has a new one. Its flash and memory-efficient kernels take any.
torch.backends.cuda.enable_cudnn_sdp(False)


def held_attention(
    query_NHD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, new: NewTokens, scaling: float
) -> Tensor:
    """New tokens against keys and values [B, K, M, D] that are held for their sequences: [N, H, D].

    `mask` is bool [B, 1, 1 or H / K * Q, M]. The query heads that share a key head are laid one after another, as more queries
    of it: asked to group them itself under a mask, torch repeats keys and values for each (its only kernel that groups under
    a mask is the plain one).
    """
    queries = new.by_sequence(query_NHD).transpose(1, 2)  # [B, H, Q, D]
    shared = queries.reshape(new.count, keys.shape[1], -1, queries.shape[3])  # [B, K, H / K * Q, D]
    out = F.scaled_dot_product_attention(shared, keys, values, attn_mask=mask, scale=scaling)
    return new.end_to_end(out.reshape(queries.shape).transpose(1, 2))


def _cached(
    query_NHD: Tensor, keys: Tensor, values: Tensor, new: NewTokens, scaling: float, window: int | None
) -> Tensor:
    """New tokens against all that came before them in their sequences: [N, H, D]."""
    mask = new.visible(window, query_NHD.shape[1] // keys.shape[1])
    return held_attention(query_NHD, keys, values, mask, new, scaling)


def as_autocast(rows: list[Tensor]) -> list[Tensor]:
    """In autocast's dtype, where it is on, as SDPA takes them: variable-length kernels, of which it knows nothing, would get
    queries and keys in float32, which the rotations of a float32 model make of 16-bit ones, beside 16-bit values."""
    device = rows[0].device.type
    if not torch.is_autocast_enabled(device) or rows[0].dtype == torch.float64:
        return rows
    return [states.to(torch.get_autocast_dtype(device)) for states in rows]


def _attend(varlen_function: Any) -> Any:
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
        mmscale_layout: PackedLayout | None = None,
        mmscale_cache: KeyValueCache | None = None,
        mmscale_new: NewTokens | None = None,
        mmscale_fused: FusedAttention | HeldAttention | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        # query arrives as [1, H, T, D], key and value as [1, K, T, D]
        rows = [states[0].transpose(0, 1) for states in (query, key, value)]
        scale = scaling if scaling is not None else query.shape[-1] ** -0.5
        layer, layout, cache, new = int(getattr(module, "layer_idx", 0)), mmscale_layout, mmscale_cache, mmscale_new
        if cache is not None:
            assert new is not None
            cache.write(layer, rows[1], rows[2], new)
        if layout is not None:
            out = varlen_function(*as_autocast(rows), layout, scale, dropout, sliding_window)
        else:
            assert cache is not None and new is not None, "a packed model is called with a layout or with a cache"
            parts = new.alike
            queries = rows[0].split([part.owners.shape[0] for part in parts]) if len(parts) > 1 else [rows[0]]
            attended = [
                _cached(own, *cache.read(layer, part), part, scale, sliding_window)
                for own, part in zip(queries, parts, strict=True)
            ]
            out = attended[0] if len(parts) == 1 else torch.cat(attended)
        beside = None if mmscale_fused is None else mmscale_fused(module, rows[0], scale)
        return (out if beside is None else out + beside)[None], None

    return attention


for _name, _function in {
    PACKED_SDPA: varlen.padded_sdpa,
    PACKED_FLASH: varlen.flash_2,
    PACKED_FLASH_3: varlen.flash_3,
    PACKED_TORCH: varlen.torch_varlen,
    PACKED_TORCH_OR_SDPA: varlen.torch_varlen_or_sdpa,
}.items():
    # no mask function beside it: transformers then makes no mask, and looks for no packed rows, which reads a number back
    AttentionInterface.register(_name, _attend(_function))


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent package
        return False


def choose(wanted: str, device: torch.device) -> str:
    """The registered name for a configured one; an explicit choice that cannot be met raises UserError.

    What auto takes from PyTorch itself is decided by each call: its variable-length attention in 16 bits, else packed SDPA.
    """
    gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device)[0] if gpu else 0
    has_windows = gpu and varlen.torch_has_windows()
    able = {
        "flash_attention_3": capability == 9 and _installed("flash_attn_interface"),
        "flash_attention_2": gpu and _installed("flash_attn"),
        "torch_varlen": has_windows,
        "packed_sdpa": True,
    }
    needs = {
        "flash_attention_3": "a Hopper GPU and flash-attention 3 (flash_attn_interface, from its folder hopper/)",
        "flash_attention_2": "a CUDA device and flash-attn: pip install flash-attn",
        "torch_varlen": f"a CUDA device and torch 2.11 or newer, not {device.type} and {torch.__version__}",
    }
    names = {
        "flash_attention_3": PACKED_FLASH_3,
        "flash_attention_2": PACKED_FLASH,
        "torch_varlen": PACKED_TORCH,
        "packed_sdpa": PACKED_SDPA,
    }
    if wanted != "auto":
        if not able[wanted]:
            raise UserError(f"language_model.attention={wanted} needs {needs[wanted]}; or set attention=auto")
        return names[wanted]
    for name in ("flash_attention_3", "flash_attention_2"):
        if able[name]:
            return names[name]
    # PyTorch's flash-attention is for compute capability 8 and later, and was measured for no GPU but NVIDIA's
    return PACKED_TORCH_OR_SDPA if has_windows and capability >= 8 and torch.version.hip is None else PACKED_SDPA
