"""One step of decoding for whatever makes logits: a plain or merged model, or three of them (proxy-tuning)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.models.attention import KeyValueCache
from mmscale.models.merge import MergedModel

PromptSet = Sequence[TokenizedExample]


class Stepper(Protocol):
    """Logits of the next token of every sequence; sequences are dropped when they are done."""

    def start(self, prompts: Sequence[PromptSet], max_new_tokens: int) -> Tensor:
        """Prefill. `prompts[m]` are model m's prompts for the same B sequences. Logits [B, V]."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append int64 [B]; logits [B, V] after them."""
        ...

    def keep(self, rows: Tensor) -> None: ...


class ModelStepper:
    """A plain or merged model with a static cache; prompts are prefilled packed, without padding."""

    def __init__(self, model: MergedModel) -> None:
        self.model = model
        self.cache: KeyValueCache | None = None

    def start(self, prompts: Sequence[PromptSet], max_new_tokens: int) -> Tensor:
        (own,) = prompts
        lm = self.model.language_model
        row = pack(own, lm.specials).to(lm.device)
        self.cache = lm.new_cache(len(own), max(row.lengths) + max_new_tokens)
        hidden = self.model.hidden(row, self.cache)
        lengths = self.cache.begin(row.lengths, lm.device)
        return lm.logits(hidden[lengths.cumsum(0) - 1])

    def step(self, tokens: Tensor) -> Tensor:
        assert self.cache is not None
        lm = self.model.language_model
        hidden = lm.hidden(lm.embed(tokens), self.cache.lengths, None, self.cache)
        self.cache.advance()
        return lm.logits(hidden)

    def keep(self, rows: Tensor) -> None:
        assert self.cache is not None
        self.cache.keep(rows)


class ProxyStepper:
    """Proxy-tuning (Liu et al. 2024, eq. 1): s_base + alpha (s_expert - s_antiexpert).

    The three models may read different prompts; they share the continuation. Expert rows beyond the
    base vocabulary are cut.
    """

    def __init__(self, steppers: Sequence[Stepper], alpha: float) -> None:
        """`steppers` are base, expert and anti-expert."""
        assert len(steppers) == 3
        self.steppers, self.alpha = tuple(steppers), alpha

    def _combine(self, base: Tensor, expert: Tensor, antiexpert: Tensor) -> Tensor:
        width = base.shape[-1]
        return base.float() + self.alpha * (expert[:, :width].float() - antiexpert[:, :width].float())

    def start(self, prompts: Sequence[PromptSet], max_new_tokens: int) -> Tensor:
        own = [stepper.start([mine], max_new_tokens) for stepper, mine in zip(self.steppers, prompts, strict=True)]
        return self._combine(*own)

    def step(self, tokens: Tensor) -> Tensor:
        return self._combine(*(stepper.step(tokens) for stepper in self.steppers))

    def keep(self, rows: Tensor) -> None:
        for stepper in self.steppers:
            stepper.keep(rows)
