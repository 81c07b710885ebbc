"""MindMerger on packed rows: encoder -> connector -> merged rows -> LLM."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmscale.config.connector import NO_SETTINGS
from mmscale.data.packing import PackedRow
from mmscale.errors import UserError
from mmscale.models.connectors import Connected, Connector, Depths
from mmscale.models.encoders import Encoder
from mmscale.models.language_model import LanguageModel
from mmscale.models.layer_fusion import EncoderMemory, require_fusable
from mmscale.models.packed_layout import PackedLayout


class MergedInputs(NamedTuple):
    """What enters the LLM of a packed row."""

    rows: Tensor
    """Its input embeddings [T, D]."""
    memory: EncoderMemory | None = None
    """What its layers read beside them."""


class MergedModel(nn.Module):
    """A language model with or without an encoder in front: one way for both.

    Without `encoder` and `connector` the merged row is the token embeddings alone. With a connector alone every row has to
    bring its encoder states.
    """

    def __init__(
        self, language_model: LanguageModel, encoder: Encoder | None = None, connector: Connector | None = None
    ) -> None:
        super().__init__()
        if encoder is not None and connector is None:
            raise ValueError("an encoder needs a connector")
        if encoder is not None and connector is not None:
            if (connector.encoder_width, connector.llm_width) != (encoder.width, language_model.width):
                raise UserError(
                    f"the mapping goes from width {connector.encoder_width} to {connector.llm_width}, but encoder and LLM have "
                    f"{encoder.width} and {language_model.width}: use the pair it was trained with"
                )
        if connector is not None and connector.depths is not None:
            self._require_depths(language_model, encoder, connector.depths)
        self.language_model, self.encoder, self.connector = language_model, encoder, connector

    @staticmethod
    def _require_depths(language_model: LanguageModel, encoder: Encoder | None, depths: Depths) -> None:
        """UserError where the layers are not as many as a connector was made for, or not of a kind that can read its states."""
        held = Depths(depths.encoder if encoder is None else encoder.depth, language_model.depth)
        if held != depths:
            raise UserError(
                f"the connector is for an encoder of {depths.encoder} layers and an LLM of {depths.llm}, but they have "
                f"{held.encoder} and {held.llm}: use the pair it was trained with"
            )
        require_fusable(language_model.causal_lm)

    @property
    def layers_read(self) -> bool:
        """Whether layers of the LLM read the encoder's states by themselves."""
        return self.connector is not None and bool(self.connector.reading_layers)

    def prefix_length(self, encoder_length: int) -> int:
        """Rows between BOS and text that an encoder text of so many tokens becomes."""
        settings = NO_SETTINGS if self.connector is None else self.connector.settings
        return settings.prefix_length(encoder_length)

    def merged_inputs(self, row: PackedRow) -> MergedInputs:
        """What enters the LLM of a packed row."""
        tokens = self.language_model.embed(row.token_ids)
        if self.connector is None:
            return MergedInputs(tokens)
        assert row.encoder is not None and row.encoder_rows is not None and row.boundary_rows is not None
        wanted = tuple(map(self.prefix_length, row.encoder.lengths))
        if row.prefix_lengths != wanted:
            raise ValueError(
                f"a row packed for prefixes of {row.prefix_lengths} rows, and the connector makes {wanted}"
            )
        states = row.encoder.states
        if states is not None and self.encoder is not None and self.encoder.is_trained:
            raise ValueError("a row with encoder states from before, and an encoder that is trained")
        if states is None:
            assert self.encoder is not None, "a row without encoder states, and no encoder to make them"
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder.is_trained):
                states = self.encoder.states(row.encoder)
        rows = row.token_rows, row.encoder_rows, row.boundary_rows
        made: Tensor | Connected = self.connector(states, tokens, *rows, row.encoder.lengths)
        if isinstance(made, Tensor):
            return MergedInputs(made)
        inputs, states, gates = made  # by place: what wraps a module may make a plain tuple of it
        texts = PackedLayout(tuple(row.encoder.lengths), tokens.device)
        return MergedInputs(inputs, EncoderMemory(states, gates, self.connector.reading_layers, texts))

    def hidden(self, row: PackedRow, read: Tensor | None = None) -> Tensor:
        """Last hidden states [T, D]; of the rows `read` (int64 [N], none twice) alone: [N, D]."""
        inputs = self.merged_inputs(row)
        layout = PackedLayout(tuple(row.lengths), inputs.rows.device)
        return self.language_model.hidden(inputs.rows, row.position_ids, layout, read=read, memory=inputs.memory)
