"""A model's configuration with small sizes and everything else as it is: what tries an architecture out in a moment."""

from __future__ import annotations

from typing import Any

_WIDTH, _HEAD, _VOCABULARY, _WINDOW = 48, 16, 97, 4
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_GROUPS = ("n_group", "topk_group")
_WINDOWS = ("sliding_window", "attention_chunk_size")


def small_config(config: Any, multiple: int, keep_widths: bool = False) -> Any:
    """The same class and settings; heads, widths and vocabulary are divisible by `multiple` where those of `config` are.

    Windows become shorter than the few tokens that are tried. With `keep_widths` only layers and vocabulary shrink.
    """
    values = config.to_dict()
    names = getattr(config, "attribute_map", {})
    layers = _layers(config)
    values = {key: _cut(value, int(config.num_hidden_layers), layers) for key, value in values.items()}
    small: dict[str, Any] = {"num_hidden_layers": layers, "vocab_size": _VOCABULARY}
    if not keep_widths:
        small |= _widths(config, values, multiple)
    for key, value in small.items():
        name = names.get(key, key)
        if name in values:
            values[name] = value
    for key in _WINDOWS:
        if isinstance(values.get(key), int) and values[key] > 0:
            values[key] = _WINDOW
    for key, value in (("pad_token_id", 0), ("bos_token_id", 1), ("eos_token_id", 2)):
        values[key] = value if values.get(key) is not None else None
    for key in ("dtype", "torch_dtype", "quantization_config", "architectures", "auto_map"):
        values.pop(key, None)
    made = type(config).from_dict(values)
    made._attn_implementation = made._experts_implementation = None
    return made


def _layers(config: Any) -> int:
    """So many that each kind of layer is among them."""
    kinds = getattr(config, "layer_types", None)
    count = int(config.num_hidden_layers)
    if isinstance(kinds, (list, tuple)) and kinds:
        return min(count, max(2, *(list(kinds).index(kind) + 1 for kind in set(kinds))))
    dense = getattr(config, "first_k_dense_replace", None)
    return min(count, int(dense) + 1 if isinstance(dense, int) else 4)


def _cut(value: Any, count: int, layers: int) -> Any:
    """A list with an entry a layer, for the layers that stay."""
    return value[:layers] if isinstance(value, (list, tuple)) and len(value) == count else value


def _widths(config: Any, values: dict[str, Any], multiple: int) -> dict[str, Any]:
    """Heads and widths; keys that `config` does not have are left out by the caller."""
    heads = int(config.num_attention_heads)
    shared = int(getattr(config, "num_key_value_heads", None) or heads)
    few = 1 if shared == 1 else 2 * multiple
    count = 2 * few if shared < heads else max(few, 2 * multiple)
    whole = int(config.hidden_size) == heads * int(
        getattr(config, "head_dim", None) or int(config.hidden_size) // heads
    )
    small: dict[str, Any] = {
        "num_attention_heads": count,
        "num_key_value_heads": few if shared < heads else count,
        "hidden_size": count * _HEAD if whole else _WIDTH * multiple,
        "word_embed_proj_dim": count * _HEAD,
        "rotary_dim": _HEAD // 2,
        "ffn_dim": _WIDTH * multiple,
    }
    if "qk_rope_head_dim" not in values and values.get("head_dim") is not None:
        small["head_dim"] = _HEAD
    small |= {key: _WIDTH * multiple for key in values if "intermediate_size" in key and isinstance(values[key], int)}
    small |= {key: min(4, values[key]) for key in _EXPERTS if isinstance(values.get(key), int)}
    small |= {key: 1 for key in _GROUPS if isinstance(values.get(key), int)}
    if isinstance(values.get("num_experts_per_tok"), int):
        small["num_experts_per_tok"] = min(2, values["num_experts_per_tok"])
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(values.get(key), dict):
            small[key] = _rope(values[key], _HEAD)
    return small


def _rope(values: dict[str, Any], head: int) -> dict[str, Any]:
    """Factors per frequency for the smaller head; where there are several layer types, rules for each."""
    part = float(values.get("partial_rotary_factor") or 1.0)
    small = dict(values)
    for key, value in values.items():
        if isinstance(value, dict):
            small[key] = _rope(value, head)
        elif key in ("long_factor", "short_factor") and isinstance(value, list):
            small[key] = value[: int(head * part) // 2]
    return small
