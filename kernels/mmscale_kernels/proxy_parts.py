"""What a choice of tokens is made of: logits, how each row is drawn, and the partial results that are joined.

Shared by the PyTorch reference and the Triton kernel of proxy_logits. Sizes: N rows, V entries of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

FIELDS = 5
"""Numbers of a partial result: maximum of s, sum of exp(s - maximum), largest key, its token, its s. 20 bytes in float32, which
holds every token id below 2^24."""


@dataclass(frozen=True)
class Draws:
    """How each of N rows is drawn; all tensors on the logits' device."""

    temperature: Tensor
    """float32 [N]; 0 is greedy."""
    top_k: Tensor
    """int64 [N]; 0 is off."""
    top_p: Tensor
    """float32 [N]; 1 is off."""
    min_p: Tensor
    """float32 [N]; 0 is off."""
    seed: Tensor
    """int64 [N]."""
    row: Tensor
    """int64 [N]: which sequence, whatever else is in the batch."""
    position: Tensor
    """int64 [N]: number of the new token in its sequence."""
    sampled: bool
    """Whether any row has a temperature."""
    truncated: bool
    """Whether any sampled row has top-k, top-p or min-p."""

    def rows(self, begin: int, end: int) -> Draws:
        """The draws of rows begin..end-1."""
        cut: dict[str, Any] = {
            name: value[begin:end] for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **cut)


@dataclass(frozen=True)
class Parts:
    """Logits whose combination is chosen from: [N, >= V] each, the entries of a row side by side; extra columns of expert
    and anti-expert are not looked at."""

    base: Tensor
    expert: Tensor | None = None
    antiexpert: Tensor | None = None
    alpha: float = 0.0

    @property
    def combines(self) -> bool:
        return self.expert is not None

    def combined(self) -> Tensor:
        """s [N, V] in float32 at least."""
        wide = torch.promote_types(self.base.dtype, torch.float32)
        if self.expert is None or self.antiexpert is None:
            return self.base.to(wide)
        width = self.base.shape[1]
        difference = self.expert[:, :width].to(wide) - self.antiexpert[:, :width].to(wide)
        return self.base.to(wide) + self.alpha * difference


@dataclass(frozen=True)
class Chosen:
    """One token of every row."""

    token: Tensor
    """int64 [N]."""
    log_probability: Tensor
    """[N]: of the token under softmax(s), before temperature and truncation."""
    log_sum_exp: Tensor
    """[N]: of s."""


def joined_partials(found_SN5: Tensor) -> Tensor:
    """[N, 5] of the partial results of S shards of a vocabulary, in its order; ties go to the lowest token."""
    largest = found_SN5[..., 0].amax(0)
    total = (found_SN5[..., 1] * (found_SN5[..., 0] - largest).exp()).sum(0)
    best = found_SN5[..., 2].argmax(0, keepdim=True)
    return torch.stack([largest, total, *(found_SN5[..., field].gather(0, best)[0] for field in (2, 3, 4))], dim=-1)
