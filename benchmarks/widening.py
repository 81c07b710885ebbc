"""A LLaMA made wider without changing what it computes: what is added is zero, and is multiplied all the same.

A small trained model so costs as much as a large one, and answers as it did: acceptance and accuracy are real, time is that
of the larger shape.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM


def widened(model: Any, hidden: int) -> Any:
    """A copy of width `hidden`, which has to be a multiple of the head width; MLP and heads grow in proportion."""
    old = model.config
    head = old.hidden_size // old.num_attention_heads
    if hidden % head or hidden < old.hidden_size:
        raise ValueError(f"the width has to be a multiple of {head} from {old.hidden_size} on, not {hidden}")
    config = copy.deepcopy(old)
    config.hidden_size, config.head_dim = hidden, head
    config.num_attention_heads = config.num_key_value_heads = hidden // head
    config.intermediate_size = old.intermediate_size * hidden // old.hidden_size
    # the mean of squares is over more entries, all of them zero
    share = old.hidden_size / hidden
    config.rms_norm_eps = old.rms_norm_eps * share
    made = LlamaForCausalLM(config).to(next(model.parameters()).dtype).eval()
    values = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            scale = share**0.5 if "norm" in name else 1.0
            parameter.copy_(_padded(values[name] * scale, parameter))
    return made


def _padded(values: Tensor, like: Tensor) -> Tensor:
    sizes = [n for old, new in zip(reversed(values.shape), reversed(like.shape), strict=True) for n in (0, new - old)]
    return nn.functional.pad(values, sizes)
