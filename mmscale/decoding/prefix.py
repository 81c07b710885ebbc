"""What many prompts begin with, such as the examples of a few-shot prompt: computed once, its keys and values forked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmscale.data.segments import TokenizedExample
from mmscale.models.key_value_cache import KeyValueCache

LEAST_SHARED_TOKENS = 64
"""A common beginning of fewer tokens is computed with each prompt: it would save little, and change roundings."""


@dataclass(frozen=True)
class SharedPrefix:
    """What prompts begin with, computed."""

    encoder_ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    length: int
    """Tokens of it, beginning of text and encoder states included."""
    cache: KeyValueCache
    """Its keys and values, in slot 0."""

    def begins(self, prompt: TokenizedExample) -> bool:
        """Whether a prompt begins so, and goes on."""
        held = len(self.prompt_ids)
        return (
            prompt.encoder_ids == self.encoder_ids
            and prompt.prompt_ids[:held] == self.prompt_ids
            and len(prompt.prompt_ids) > held
        )


def common_prefix(prompts: Sequence[TokenizedExample]) -> int:
    """Tokens with which all of some prompts begin, beginning of text and encoder states included; each goes on behind them."""
    if not prompts:
        return 0
    first = prompts[0]
    if any(one.encoder_ids != first.encoder_ids for one in prompts):
        return 1
    least, most = min(one.prompt_ids for one in prompts), max(one.prompt_ids for one in prompts)  # differ the earliest
    shortest = min(len(one.prompt_ids) for one in prompts)
    same = next((i for i, (a, b) in enumerate(zip(least, most)) if a != b), shortest)
    return 1 + first.prefix_length + max(0, min(same, shortest - 1))
