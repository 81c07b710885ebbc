"""The mean example of a stage: what is known of it, and what the limits allow where nothing is."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from mmscale.config.connector import ConnectorSettings
from mmscale.config.training import StageConfig


@dataclass(frozen=True)
class Given:
    """What the user says of the data; None leaves it to be read, or assumed."""

    example_tokens: int | None = None
    target_tokens: int | None = None
    examples: int | None = None


@dataclass(frozen=True)
class Examples:
    """Mean merged tokens of an example, how many of them are targets and how many come from the encoder."""

    tokens: float
    targets: float
    encoder: float
    count: int | None
    """In an epoch."""
    source: str
    """Where these numbers come from."""


def longest_example(config: StageConfig, settings: ConnectorSettings | None) -> Examples:
    """As long as the limits allow; `settings` are those of the connector, where there is one."""
    packing = config.packing
    encoder, prefix = 0, 0
    if settings is not None:
        encoder, prefix = packing.max_encoder_tokens, settings.prefix_length(packing.max_encoder_tokens)
    target = packing.max_joined_tokens or packing.max_target_tokens
    tokens = prefix + (packing.max_joined_tokens or packing.max_prompt_tokens + packing.max_target_tokens)
    return Examples(tokens, target, encoder, None, "as long as packing's limits allow")


def encoder_share(longest: Examples, settings: ConnectorSettings | None, tokens: int) -> float:
    """Encoder tokens of an example of so many merged tokens, whose texts are to each other as the longest ones are."""
    if settings is None:
        return 0.0
    most = int(longest.encoder)
    text = (longest.tokens - settings.prefix_length(most)) / most
    # merged tokens grow with the encoder's: between n and n + 1 of these they become `tokens`
    low = bisect.bisect_right(range(1, 2**31), tokens, key=lambda n: math.ceil(settings.prefix_length(n) + text * n))
    here, above = (settings.prefix_length(n) + text * n for n in (low, low + 1))
    return max(1.0, low + (tokens - here) / (above - here))
