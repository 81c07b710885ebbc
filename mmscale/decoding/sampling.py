"""How rows are drawn: configurations to the tensors that mmscale_kernels.proxy_choose reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmscale_kernels import Draws
from torch import Tensor

from mmscale.config.evaluation import GenerationConfig
from mmscale.transfer import tensor_on


@dataclass(frozen=True)
class DrawKey:
    """A new token: which sequence it belongs to, the number it gets there, and how it is drawn."""

    sequence: int
    """Key of the noise: a sequence's draws do not depend on what shares its batch."""
    position: int
    config: GenerationConfig


def draws(places: Sequence[DrawKey], device: torch.device) -> Draws:
    """Tensors of N places."""
    configs = [place.config for place in places]
    sampled = any(config.temperature > 0 for config in configs)
    shares = [[c.temperature for c in configs], [c.top_p for c in configs], [c.min_p for c in configs]]
    numbers = [[c.top_k for c in configs], [c.seed for c in configs]]
    numbers += [[place.sequence for place in places], [place.position for place in places]]
    temperature, top_p, min_p = tensor_on(device, shares, torch.float32)
    top_k, seed, row, position = tensor_on(device, numbers, torch.int64)
    truncated = any(c.temperature > 0 and (c.top_k > 0 or c.top_p < 1 or c.min_p > 0) for c in configs)
    return Draws(temperature, top_k, top_p, min_p, seed, row, position, sampled, truncated)


def penalised(combined_NV: Tensor, held: Sequence[Sequence[int]], configs: Sequence[GenerationConfig]) -> Tensor:
    """Logits with each row's repetition penalty on the tokens it holds: divided where positive, else multiplied."""
    width = combined_NV.shape[1]
    punished = [
        sorted({t for t in tokens if t < width}) if c.repetition_penalty != 1 else []
        for tokens, c in zip(held, configs, strict=True)
    ]
    counts = [len(tokens) for tokens in punished]
    rows, tokens = tensor_on(
        combined_NV.device,
        [[n for n, count in enumerate(counts) for _ in range(count)], [t for tokens in punished for t in tokens]],
        torch.int64,
    )
    penalty = tensor_on(combined_NV.device, [c.repetition_penalty for c in configs], combined_NV.dtype)[rows]
    values = combined_NV[rows, tokens]
    return combined_NV.index_put((rows, tokens), torch.where(values > 0, values / penalty, values * penalty))
