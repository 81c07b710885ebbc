"""How rows are drawn: configurations to the tensors that mmscale_kernels.proxy_choose reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from mmscale_kernels import Draws
from torch import Tensor

from mmscale.config.evaluation import GenerationConfig


@dataclass(frozen=True)
class Place:
    """A new token: which sequence it belongs to, the number it gets there, and how it is drawn."""

    sequence: int
    """Key of the noise: a sequence's draws do not depend on what shares its batch."""
    position: int
    config: GenerationConfig


def draws(places: Sequence[Place], device: torch.device) -> Draws:
    """Tensors of N places."""
    configs = [place.config for place in places]
    sampled = any(config.temperature > 0 for config in configs)

    def tensor(values: list[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=device)

    return Draws(
        tensor([c.temperature for c in configs], torch.float32),
        tensor([c.top_k for c in configs], torch.int64),
        tensor([c.top_p for c in configs], torch.float32),
        tensor([c.min_p for c in configs], torch.float32),
        tensor([c.seed for c in configs], torch.int64),
        tensor([place.sequence for place in places], torch.int64),
        tensor([place.position for place in places], torch.int64),
        sampled,
        sampled and any(c.temperature > 0 and (c.top_k > 0 or c.top_p < 1 or c.min_p > 0) for c in configs),
    )


def penalised(combined_NV: Tensor, held: Sequence[Sequence[int]], configs: Sequence[GenerationConfig]) -> Tensor:
    """Logits with each row's repetition penalty on the tokens it holds: divided where positive, else multiplied."""
    found = combined_NV.clone()
    for row, tokens, config in zip(found, held, configs, strict=True):
        if config.repetition_penalty != 1 and tokens:
            places = torch.tensor(sorted(set(tokens)), device=row.device)
            places = places[places < row.numel()]
            values = row[places]
            row[places] = torch.where(
                values > 0, values / config.repetition_penalty, values * config.repetition_penalty
            )
    return found
