"""A way to spread a stage over ranks, and what a rank then holds of a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM


@dataclass(frozen=True)
class ParallelPlan:
    """Ranks = tensor x data."""

    ranks: int
    tensor: int
    stage: int
    """ZeRO's; 0 replicates."""
    sequence_parallel: bool = False

    @property
    def data(self) -> int:
        return self.ranks // self.tensor

    def __str__(self) -> str:
        zero = f"ZeRO-{self.stage}" if self.stage else "replicated"
        sequence = " with sequence parallelism" if self.sequence_parallel else ""
        return f"tensor {self.tensor}{sequence} x data {self.data}, {zero}"


def shortened(model_config: Any, layers: int) -> Any:
    """The configuration of the same model with fewer layers."""
    config = copy.deepcopy(model_config)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1] * layers
    return config


def local_config(model_config: Any, tensor: int) -> Any:
    """The configuration of a whole model whose layers have the shapes of one rank's parts (mmscale/parallel/tensor.py)."""
    config = copy.deepcopy(model_config)
    config.head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
        setattr(config, key, getattr(config, key) // tensor)
    config.vocab_size = -(-config.vocab_size // tensor)
    return config


def local_parameters(model_config: Any, tensor: int) -> list[int]:
    """Elements of every parameter of the LLM on one rank of a tensor group, tied weights once."""
    with torch.device("meta"):
        model: nn.Module = AutoModelForCausalLM.from_config(local_config(model_config, tensor))
    return [parameter.numel() for parameter in model.parameters()]


def partitioned(sizes: Sequence[int], data: int) -> int:
    """Elements a rank holds under ZeRO-3: each parameter is cut by itself, its last part padded."""
    return sum(-(-size // data) for size in sizes)


def flattened(sizes: Sequence[int], data: int) -> int:
    """Elements a rank holds of the flat groups of ZeRO-1 and 2, padded to DeepSpeed's alignment of two per rank."""
    return -(-sum(sizes) // (2 * data)) * 2
