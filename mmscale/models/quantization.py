"""Frozen weights in 4 or 8 bits: bitsandbytes' linear layers, put in place by transformers while it loads.

nf4: 4-bit NormalFloat in blocks of 64, the blocks' scales quantised again (Dettmers et al. 2023, arXiv 2305.14314,
section 3). int8: a scale a row, outlying features apart (Dettmers et al. 2022, arXiv 2208.07339). Embeddings, norms and
the head stay in the model's dtype. A gradient passes through to the inputs; the weights take none.
"""

from __future__ import annotations

import importlib.util
import logging
import sys
from typing import Any

import torch
from torch import nn

from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError

NONE = "none"
_BLOCK = 64
"""Elements that share a scale."""
_BYTES_AN_ELEMENT = {"nf4": 0.5 + 1 / 64 + 4 / (64 * 256), "int8": 1.0}
"""nf4: 4 bits, an 8-bit scale for 64 of them, a float32 for 256 scales (arXiv 2305.14314, section 3)."""


def arguments(config: LanguageModelConfig, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` is given beside a dtype; UserError where bitsandbytes is missing."""
    if config.quantization == NONE:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"language_model.quantization={config.quantization} needs bitsandbytes: pip install 'mmscale[quantization]'"
        )
    from transformers import BitsAndBytesConfig

    _import_bitsandbytes()
    chosen: dict[str, Any] = {"load_in_8bit": True}
    if config.quantization == "nf4":
        chosen = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
        chosen["bnb_4bit_compute_dtype"] = dtype
    return {"quantization_config": BitsAndBytesConfig(**chosen), "device_map": {"": device}}


def _import_bitsandbytes() -> None:
    """Without the compiled code that it would fetch from the hub and run, where the package `kernels` is installed."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of that, and of every cast to float16
    before = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]
    try:
        import bitsandbytes  # noqa: F401
    finally:
        del sys.modules["kernels"]
        if before is not None:
            sys.modules["kernels"] = before


def require_right_values(causal_lm: Any, config: LanguageModelConfig) -> None:
    """UserError where bitsandbytes (0.50) is known to read its 4-bit weights wrongly: on a CPU, rows that are not whole
    blocks."""
    if config.quantization != "nf4":
        return
    from bitsandbytes.nn import Linear4bit

    for name, layer in causal_lm.named_modules():
        if isinstance(layer, Linear4bit) and layer.weight.device.type == "cpu" and layer.in_features % _BLOCK:
            raise UserError(
                f"{config.path}: on a CPU bitsandbytes gives wrong values for 4-bit rows that are no multiple of {_BLOCK}, and "
                f"those of {name} have {layer.in_features}: set language_model.quantization=int8, or use a GPU"
            )


def compute_in_own_dtype(causal_lm: Any, config: LanguageModelConfig) -> None:
    """Keep bitsandbytes (0.50) from answering in bfloat16, whatever the model's dtype, on CPUs that have AVX512-BF16: answers
    would depend on the processor, layers with rows that are no multiple of 32 end in an assertion, and weights are
    rearranged for good, so that no gradient passes any more.
    """
    if config.quantization != "nf4":
        return
    from bitsandbytes.nn import Linear4bit

    for layer in causal_lm.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False


def require_right_products(config: LanguageModelConfig, device: torch.device) -> None:
    """UserError where torch's 8-bit product saturates on this CPU: oneDNN's does (seen with torch 2.13) where there is AVX-512
    without VNNI, or where ONEDNN_MAX_CPU_ISA says so, and bitsandbytes takes it wherever there is AVX-512."""
    if config.quantization != "int8" or device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return
    left, right = (torch.full(shape, 127, dtype=torch.int8) for shape in ((17, 128), (64, 128)))
    if not bool((torch._int_mm(left, right.T) == 127 * 127 * 128).all()):
        raise UserError(
            "language_model.quantization=int8: torch multiplies 8-bit numbers wrongly on this processor: set "
            "ATEN_CPU_CAPABILITY=avx2 in the environment, which multiplies them otherwise, or choose another quantization"
        )


def _quantised(causal_lm: Any) -> list[nn.Linear]:
    head = causal_lm.get_output_embeddings()
    return [layer for layer in causal_lm.modules() if isinstance(layer, nn.Linear) and layer is not head]


def weight_bytes(causal_lm: Any, chosen: str, width: int) -> int:
    """Bytes of a whole model's weights, where those that stay take `width` bytes an element; tied weights once."""
    layers = _quantised(causal_lm)
    small = {id(layer.weight): layer.weight.numel() for layer in layers}
    rows = sum(layer.out_features for layer in layers) if chosen == "int8" else 0
    rest = sum(p.numel() for p in causal_lm.parameters() if id(p) not in small)
    return round(sum(small.values()) * _BYTES_AN_ELEMENT[chosen]) + 4 * rows + rest * width


def largest_layer(causal_lm: Any) -> int:
    """Elements of the largest quantised weight: it is whole for the time of its product."""
    return max(layer.weight.numel() for layer in _quantised(causal_lm))
