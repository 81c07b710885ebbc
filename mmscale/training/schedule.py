"""Learning rate as a pure function of the step, so that nothing of it needs saving."""

from __future__ import annotations

import math

from mmscale.config.training import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Rate of optimizer step `step` (from 0): linear warm-up, then constant, cosine to 0 or linear to 0."""
    warmup = math.ceil(config.warmup_share * total_steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
    if config.schedule == "linear":
        return config.learning_rate * (1 - progress)
    return config.learning_rate
