"""What an architecture makes of its head's product before it is called logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class LogitRules:
    """logits = c tanh(s W h / c): Cohere multiplies by s, Granite divides by 1 / s, Gemma 2 caps at c.

    s W h is W (s h): the factor goes to the hidden states, which are fewer.
    """

    scale: float = 1.0
    softcap: float | None = None

    def scaled(self, hidden_ND: Tensor) -> Tensor:
        return hidden_ND if self.scale == 1.0 else hidden_ND * self.scale

    def capped(self, logits: Tensor) -> Tensor:
        return logits if self.softcap is None else self.softcap * (logits / self.softcap).tanh()


PLAIN = LogitRules()


def logit_rules(model_config: Any) -> LogitRules:
    """By the names that transformers' configurations give them; whether a model means the same is compared when it loads."""
    multiplied = [getattr(model_config, key, None) for key in ("logit_scale", "lm_head_multiplier")]
    divided = getattr(model_config, "logits_scaling", None)
    caps = [getattr(model_config, key, None) for key in ("final_logit_softcapping", "logits_soft_cap")]
    scale = 1.0
    for factor in (*multiplied, 1 / divided if divided else None):
        scale *= 1.0 if factor is None else float(factor)
    return LogitRules(scale, next((float(cap) for cap in caps if cap is not None), None))
