"""Published shapes of models, and lengths of the texts that they read, for random weights and random ids."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mmscale.models.attention import choose

_LLAMA_2 = {"vocab_size": 32_000, "max_position_embeddings": 4096}
LLAMA: dict[str, dict[str, Any]] = {
    "tiny": {
        **_LLAMA_2,
        "vocab_size": 2000,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    },
    "little": {
        **_LLAMA_2,
        "vocab_size": 2000,
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    },
    "medium": {
        **_LLAMA_2,
        "vocab_size": 2000,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    },
    "1b": {
        **_LLAMA_2,
        "hidden_size": 2048,
        "intermediate_size": 5504,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    "7b": {
        **_LLAMA_2,
        "hidden_size": 4096,
        "intermediate_size": 11_008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "13b": {
        **_LLAMA_2,
        "hidden_size": 5120,
        "intermediate_size": 13_824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
    "34b": {
        **_LLAMA_2,
        "hidden_size": 8192,
        "intermediate_size": 22_016,
        "num_hidden_layers": 48,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
"""Sheared LLaMA's 1.3B, LLaMA-2's 7B and 13B and Code Llama's 34B from their config.json (the last with LLaMA-2's vocabulary), and
three for a machine without a GPU."""


def parameters(shape: dict[str, Any]) -> dict[str, int]:
    """Parameters of a LLaMA: of its embedding and its head each, of a layer, of all."""
    width, layers, vocabulary = shape["hidden_size"], shape["num_hidden_layers"], shape["vocab_size"]
    keys = width * shape.get("num_key_value_heads", shape["num_attention_heads"]) // shape["num_attention_heads"]
    layer = 2 * width * width + 2 * width * keys + 3 * width * shape["intermediate_size"] + 2 * width
    return {"head": vocabulary * width, "layer": layer, "all": 2 * vocabulary * width + layers * layer + width}


def cached_numbers(shape: dict[str, Any]) -> int:
    """Numbers in the keys and values of a token."""
    heads = shape["num_attention_heads"]
    return 2 * shape["num_hidden_layers"] * shape["hidden_size"] * shape.get("num_key_value_heads", heads) // heads


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


MT5_XL: dict[str, Any] = {
    "vocab_size": 250_112,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "feed_forward_proj": "gated-gelu",
    "num_layers": 24,
    "num_heads": 32,
}
"""mT5-xl, from its config.json; its encoder is half of it."""


def random_llama(
    shape: dict[str, Any], device: torch.device, dtype: torch.dtype | None = None, attends: str = "auto"
) -> Any:
    """A LLaMA of random weights, drawn on the device, that attends by the function of ours that a configuration would name."""
    with torch.device(device):
        return LlamaForCausalLM._from_config(
            LlamaConfig(**shape), attn_implementation=choose(attends, device), dtype=dtype or dtype_on(device)
        ).eval()


def as_transformers_runs_it(model: Any, attention: str) -> Any:
    """The same weights in memory, in a model of transformers with an attention of its own."""
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(copy.deepcopy(model.config), attn_implementation=attention)
    made.load_state_dict(model.state_dict(), assign=True)
    for name, buffer in model.named_buffers():  # those that no state has, such as the frequencies of positions
        owner, _, leaf = name.rpartition(".")
        setattr(made.get_submodule(owner), leaf, buffer)
    made.tie_weights()
    return made.to(model.device).eval().requires_grad_(False)


@dataclass(frozen=True)
class Lengths:
    """Tokens of a text, log-normal, cut at both ends."""

    median: int
    sigma: float
    least: int
    most: int

    def draw(self, generator: torch.Generator) -> int:
        value = self.median * float(torch.exp(self.sigma * torch.randn((), generator=generator)))
        return min(max(round(value), self.least), self.most)


PROMPT = Lengths(111, 0.85, 36, 512)
"""MGSM's questions in eleven languages in LLaMA-2's vocabulary: quartiles 75, 111, 193, 95 % below 606; the paper cuts at 512."""
TEMPLATE = 43
"""Tokens of the prompt around a question."""
ANSWER = Lengths(115, 0.45, 40, 300)
"""GSM8K's solutions: quartiles 86, 115, 157, 95 % below 236."""
ENCODED = Lengths(60, 0.45, 20, 300)
"""The same questions in a multilingual vocabulary; an assumption."""
