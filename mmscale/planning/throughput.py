"""Floating-point operations of a token, and how fast a GPU does them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EFFICIENCY = 0.5
"""Share of the datasheet's peak that a transformer's layers reach between communications: chosen once, not fitted to a
model. docs/scaling.md says how far from published runs it lands (MPT-7B and 70B, LLaMA-3.1-8B)."""


@dataclass(frozen=True)
class TokenWork:
    """Operations of one merged token; a multiplication and an addition are two."""

    forward: float
    """Through the LLM, causal attention counted as what it computes."""
    model: float
    """What MFU counts (PaLM, arXiv 2204.02311, appendix B): forward and backward, whole attention, nothing twice."""
    hardware: float
    """What is computed: recomputation included, and all rows of the last layer, which spares some."""


def token_work(
    model_config: Any, parameters: int, sequence: float, targets: float, trained: bool, checkpointing: bool
) -> TokenWork:
    """The work of a token for an LLM of `parameters` elements, in sequences of `sequence` tokens; a share `targets` of them
    enters the head.

    Matrices cost 2 operations an element forward; backward costs that for the inputs and, where the LLM is trained,
    again for the weights. Attention costs 4 L h S forward (queries x keys, weights x values), half of it under a causal
    mask.
    """
    width, layers = int(model_config.hidden_size), int(model_config.num_hidden_layers)
    heads = int(model_config.num_attention_heads)
    inner = heads * (getattr(model_config, "head_dim", None) or width // heads)
    table = int(model_config.vocab_size) * width
    tied = bool(model_config.tie_word_embeddings)
    body = parameters - table if tied else parameters - 2 * table
    attention = 4.0 * layers * inner * sequence
    forward = 2.0 * (body + targets * table) + attention / 2
    whole = 2.0 * (body + table) + attention
    times = 3 if trained else 2
    return TokenWork(forward, times * whole, (times + checkpointing) * forward)


def seconds_of(operations: float, peak_tflops: float, efficiency: float = EFFICIENCY) -> float:
    return operations / (peak_tflops * 1e12 * efficiency)


def step_seconds(compute: float, tensor: float, data: float) -> float:
    """Tensor-parallel reductions wait for each other; parameters and gradients travel while layers compute."""
    return max(compute, data) + tensor
