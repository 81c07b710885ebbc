"""LayAlign's connector (Ruan et al. 2025, arXiv 2502.11405, section 3): MindMerger's mapping of the last states into the LLM's input,
and, for every LLM layer, a learned mix of the states of all encoder layers, which that layer reads by gated cross-attention.

With x_s the states of one encoder token, s = 0 the embeddings, layer l's keys are made of W2 relu(sum_s a_ls x_s + b_l) + c, its values
of the same with weights of their own, and `gates` are zero at first: a new one is MindMerger's. The authors mix as many states as
there are layers, from the embeddings on; the last ones come through the mapping alone.

Legend: E encoder tokens, S states of each, L reading layers, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from mmscale.config.connector import ConnectorSettings
from mmscale.errors import UserError
from mmscale.models.connectors.base import Connected, Connector, ConnectorKind, Depths
from mmscale.models.connectors.mlp import MLPConnector


class LayAlignSettings(ConnectorSettings):
    """LayAlign's; the authors train it with all layers and a linear projection."""

    projection: Literal["linear", "mlp"] = "linear"
    """What leads from the mix to the LLM's width: a linear layer, or two with a ReLU between them."""
    encoder_layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of the states that are mixed: 0 are the embeddings, n is what layer n makes; null is all but the last layer's."""
    language_layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Numbers of the LLM's layers that read, from 0; null is all."""


class LayerMixer(nn.Module):
    """States [E, S, d_enc] -> [2 L, E, d_llm]: what L layers make keys and values of."""

    def __init__(self, states: int, layers: int, encoder_width: int, llm_width: int, deep: bool) -> None:
        super().__init__()
        self.mix = nn.Linear(states, 2 * layers)
        self.projection = nn.Linear(encoder_width, llm_width)
        self.second_projection = nn.Linear(llm_width, llm_width) if deep else None

    def forward(self, states_ESD: Tensor) -> Tensor:
        mixed = torch.relu(self.mix(states_ESD.transpose(1, 2))).permute(2, 0, 1)
        projected: Tensor = self.projection(mixed)
        return projected if self.second_projection is None else self.second_projection(torch.relu(projected))


class LayAlignConnector(Connector):
    """MindMerger's mapping, and what the LLM's layers read."""

    def __init__(self, encoder_width: int, llm_width: int, depths: Depths, settings: LayAlignSettings) -> None:
        super().__init__()
        self.encoder_width, self.llm_width = encoder_width, llm_width
        self.mixed_states = _chosen("encoder_layers", settings.encoder_layers, depths.encoder, depths.encoder + 1)
        self.reading_layers = _chosen("language_layers", settings.language_layers, depths.llm, depths.llm)
        self.mapping = MLPConnector(encoder_width, llm_width)
        counts = len(self.mixed_states), len(self.reading_layers)
        self.mixer = LayerMixer(*counts, encoder_width, llm_width, settings.projection == "mlp")
        self.gates = nn.Parameter(torch.zeros(len(self.reading_layers)))

    def operations(self) -> int:
        sets = self.mixer.mix.weight.shape[0]
        of_each = sum(part.numel() for name, part in self.mixer.named_parameters() if not name.startswith("mix."))
        return self.mapping.operations() + sets * (len(self.mixed_states) * self.encoder_width + of_each)

    def read_in_forward(self) -> Iterable[nn.Parameter]:
        return self.mapping.read_in_forward()

    def forward(
        self,
        states_ED: Tensor,
        tokens_ND: Tensor,
        token_rows: Tensor,
        encoder_rows: Tensor,
        boundary_rows: Tensor,
        encoder_lengths: Sequence[int],
    ) -> Connected:
        """Of states [E, S, d_enc] of all layers and token embeddings [N, d_llm], in the latter's dtype."""
        rows = token_rows, encoder_rows, boundary_rows
        merged = self.mapping(states_ED[:, -1].contiguous(), tokens_ND, *rows, encoder_lengths)
        mixed = states_ED[:, list(self.mixed_states)].to(self.gates.dtype)
        # gates by a copy: partitioned ones are whole inside of this forward alone
        return Connected(merged, self.mixer(mixed).to(tokens_ND.dtype), self.gates.clone())


def _chosen(key: str, given: tuple[int, ...] | None, usual: int, count: int) -> tuple[int, ...]:
    """The numbers that a setting names, of `count`; UserError for one that is not there or comes twice."""
    numbers = tuple(range(usual)) if given is None else given
    wrong = next((n for i, n in enumerate(numbers) if not 0 <= n < count or n in numbers[:i]), None)
    if wrong is not None:
        raise UserError(
            f"connector.{key}: {wrong} comes twice or is not from 0 to {count - 1}, which these models have: correct it"
        )
    return numbers


CONNECTOR = ConnectorKind("layalign", LayAlignConnector, usual=LayAlignSettings(), reads_all_layers=True)
"""LayAlign's: MindMerger's mapping, and gated cross-attention of every LLM layer to a learned mix of all encoder layers."""
