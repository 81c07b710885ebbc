"""The mappings that MindMerger compares with its own (arXiv 2405.17386, section 5), one linear layer and three, and LangBridge's
(arXiv 2401.10695), one linear layer.

MindMerger's end the encoder states with a learned row, zero at first, as the two-layer one does. The paper does not say how wide the three
layers are: here both hidden ones have twice the encoder's width, as the two-layer mapping's has.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmscale.models.connectors.base import Connector, ConnectorKind


class LayeredConnector(Connector):
    """Linear layers with ReLU between them, of widths d_enc, `hidden`..., d_llm."""

    def __init__(self, encoder_width: int, llm_width: int, hidden: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.encoder_width, self.llm_width = encoder_width, llm_width
        widths = (encoder_width, *hidden, llm_width)
        self.layers = nn.ModuleList(nn.Linear(narrow, wide) for narrow, wide in itertools.pairwise(widths))
        self.end_boundary = nn.Parameter(torch.zeros(llm_width))

    def forward(
        self,
        states_ED: Tensor,
        tokens_ND: Tensor,
        token_rows: Tensor,
        encoder_rows: Tensor,
        boundary_rows: Tensor,
        encoder_lengths: Sequence[int],
    ) -> Tensor:
        """The LLM's input [T, d_llm] of states [E, d_enc] and token embeddings [N, d_llm], in the latter's dtype."""
        connected = states_ED.to(self.end_boundary.dtype)
        for number, layer in enumerate(self.layers):
            connected = layer(connected if number == 0 else torch.relu(connected))
        kind = tokens_ND.dtype
        ends = self.end_boundary.to(kind).expand(boundary_rows.numel(), -1)
        rows = torch.cat([tokens_ND, connected.to(kind), ends])
        return torch.empty_like(rows).index_copy(0, torch.cat([token_rows, encoder_rows, boundary_rows]), rows)


def _three(encoder_width: int, llm_width: int) -> LayeredConnector:
    return LayeredConnector(encoder_width, llm_width, (2 * encoder_width, 2 * encoder_width))


def _langbridge(encoder_width: int, llm_width: int) -> LayeredConnector:
    made = LayeredConnector(encoder_width, llm_width)
    nn.init.normal_(made.end_boundary)
    return made


LINEAR = ConnectorKind("linear", LayeredConnector)
"""One linear layer, and an end boundary."""
MLP3 = ConnectorKind("mlp3", _three)
"""Three linear layers with ReLU between them, and an end boundary."""
LANGBRIDGE = ConnectorKind("langbridge", _langbridge)
"""LangBridge's: one linear layer, and an end of standard normal numbers at first."""
