"""From logits to a token: greedy, temperature, top-p; noise keyed by (seed, prompt, position)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmscale.config.evaluation import GenerationConfig


def warp(logits_BV: Tensor, config: GenerationConfig) -> Tensor:
    """Temperature, then top-p (Holtzman et al. 2020), in transformers' order; excluded tokens get -inf."""
    scaled = logits_BV / config.temperature
    if config.top_p >= 1:
        return scaled
    values, places = scaled.sort(dim=-1, descending=True)
    probabilities = values.softmax(-1)
    outside = probabilities.cumsum(-1) - probabilities >= config.top_p
    return scaled.masked_fill(outside.gather(-1, places.argsort(-1)), float("-inf"))


def choose_tokens(logits_BV: Tensor, config: GenerationConfig, prompts: list[int], position: int) -> Tensor:
    """int64 [B]. Sampling is argmax(log p + Gumbel noise) with noise of (seed, prompt number, position), so
    that a row's draw does not depend on which rows share its batch."""
    if config.temperature == 0:
        return logits_BV.argmax(-1)
    warped = warp(logits_BV.double(), config)
    noise = torch.stack([_uniform(config.seed, prompt, position, warped.shape[1]) for prompt in prompts])
    return (warped - torch.log(-torch.log(noise.to(warped.device)))).argmax(-1)


def _uniform(seed: int, prompt: int, position: int, width: int) -> Tensor:
    key = int(np.random.SeedSequence([seed, prompt, position]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(key >> 1)
    return torch.rand(width, generator=generator, dtype=torch.float64).clamp_(1e-300, 1 - 1e-16)
