"""The settings of our connectors: what a configuration may say of one, known without what it is made of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmscale.config.connector import ConnectorSettings


class QFormerSettings(ConnectorSettings):
    """A QFormer; BLIP-2's has 32 queries, 12 layers, 12 heads, width 768, and cross_attention_every 2."""

    queries: int = Field(default=32, ge=1, le=1024)
    """Rows of the LLM's input that every text becomes, however long it is."""
    layers: int = Field(default=2, ge=1, le=48)
    """Its layers."""
    heads: int = Field(default=8, ge=1, le=256)
    """Attention heads of each; they share the width evenly."""
    width: int | None = Field(default=None, ge=1)
    """Width of its layers, at most the encoder's; null is the encoder's."""
    cross_attention_every: int = Field(default=1, ge=1)
    """Every how many layers, from the first on, the queries read the encoder's states."""

    @model_validator(mode="after")
    def _divides(self) -> QFormerSettings:
        if self.width is not None and self.width % self.heads:
            raise ValueError(f"heads={self.heads} do not share width={self.width} evenly: choose a divisor of it")
        return self

    def prefix_length(self, encoder_length: int) -> int:
        return self.queries + 1


class LayAlignSettings(ConnectorSettings):
    """LayAlign's; the authors train it with all layers and a linear projection."""

    projection: Literal["linear", "mlp"] = "linear"
    """What leads from the mix to the LLM's width: a linear layer, or two with a ReLU between them."""
    encoder_layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of the states that are mixed: 0 are the embeddings, n is what layer n makes; null is all but the last layer's."""
    language_layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of the LLM's layers that read, from 0; null is all."""


SETTINGS: dict[str, type[ConnectorSettings]] = {"qformer": QFormerSettings, "layalign": LayAlignSettings}
"""By the connector's name; the others have none."""
