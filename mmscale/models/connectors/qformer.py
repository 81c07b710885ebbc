"""A QFormer (BLIP-2, arXiv 2301.12597, section 3.1), which MindMerger compares with its own mapping (arXiv 2405.17386, section 5):
learned queries read the encoder's states, and each becomes a row of the LLM's input.

The layers are those of transformers' Blip2QFormerModel, without dropout: normalised queries; in each layer attention among the
queries, attention to the states, a feed-forward network four times as wide, each added to what it read and then normalised. A
linear layer leads to the LLM's width, and the end boundary stands behind, zero at first. Nobody says how large MindMerger's was.

Legend: B examples, Q queries, E encoder tokens, W width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmscale.config.connector_settings import QFormerSettings
from mmscale.errors import UserError
from mmscale.models.connectors.base import Connector, ConnectorKind
from mmscale.models.cross_attention import cross_attention
from mmscale.models.packed_layout import PackedLayout

_EPSILON = 1e-12
_DEVIATION = 0.02
"""Standard deviation of matrices and queries at first, as BERT's."""


class _Attention(nn.Module):
    """Attention of the queries to states of `source_width`, added to them and normalised."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key, self.value = nn.Linear(source_width, width), nn.Linear(source_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def forward(self, queries_BQW: Tensor, states: Tensor, keys: PackedLayout | None) -> Tensor:
        """`states` [B, Q, W], or packed [E, W'] as `keys` says."""
        heads = (self.heads, -1)
        query = self.query(queries_BQW).unflatten(-1, heads)
        key, value = self.key(states).unflatten(-1, heads), self.value(states).unflatten(-1, heads)
        if keys is None:
            laid = (part.transpose(1, 2) for part in (query, key, value))
            read = F.scaled_dot_product_attention(*laid).transpose(1, 2)
        else:
            read = cross_attention(query, key, value, keys)
        return self.norm(self.output(read.flatten(2)) + queries_BQW)


class _Layer(nn.Module):
    def __init__(self, settings: QFormerSettings, width: int, encoder_width: int, reads: bool) -> None:
        super().__init__()
        self.attention = _Attention(width, width, settings.heads)
        self.cross_attention = _Attention(width, encoder_width, settings.heads) if reads else None
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=_EPSILON)

    def forward(self, queries_BQW: Tensor, states_EW: Tensor, keys: PackedLayout) -> Tensor:
        queries_BQW = self.attention(queries_BQW, queries_BQW, None)
        if self.cross_attention is not None:
            queries_BQW = self.cross_attention(queries_BQW, states_EW, keys)
        return self.norm(self.narrow(F.gelu(self.wide(queries_BQW))) + queries_BQW)


class QFormerConnector(Connector):
    """Q queries of each example, whatever the length of its text."""

    def __init__(self, encoder_width: int, llm_width: int, settings: QFormerSettings) -> None:
        super().__init__()
        self.encoder_width, self.llm_width = encoder_width, llm_width
        width = _fitting_width(settings, encoder_width)
        self.queries = nn.Parameter(torch.empty(settings.queries, width))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.layers = nn.ModuleList(
            _Layer(settings, width, encoder_width, number % settings.cross_attention_every == 0)
            for number in range(settings.layers)
        )
        self.projection = nn.Linear(width, llm_width)
        self.end_boundary = nn.Parameter(torch.zeros(llm_width))
        nn.init.normal_(self.queries, std=_DEVIATION)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=_DEVIATION)
                nn.init.zeros_(module.bias)

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
        keys = PackedLayout(tuple(encoder_lengths), states_ED.device)
        states = states_ED.to(self.queries.dtype)
        queries = self.norm(self.queries).expand(len(encoder_lengths), -1, -1)
        for layer in self.layers:
            queries = layer(queries, states, keys)
        kind = tokens_ND.dtype
        connected = self.projection(queries).flatten(0, 1).to(kind)
        ends = self.end_boundary.to(kind).expand(boundary_rows.numel(), -1)
        rows = torch.cat([tokens_ND, connected, ends])
        return torch.empty_like(rows).index_copy(0, torch.cat([token_rows, encoder_rows, boundary_rows]), rows)


def _fitting_width(settings: QFormerSettings, encoder_width: int) -> int:
    """UserError where it would be wider than the encoder, or the heads do not share it."""
    width = settings.width or encoder_width
    if width > encoder_width:
        raise UserError(
            f"connector.width={width} makes a QFormer wider than its encoder, whose states are {encoder_width} wide: set it to at "
            f"most that"
        )
    if width % settings.heads:
        raise UserError(
            f"connector.heads={settings.heads} do not share the encoder's width of {width} evenly: choose a divisor of it"
        )
    return width


CONNECTOR = ConnectorKind("qformer", QFormerConnector, usual=QFormerSettings())
"""A QFormer: learned queries that read the encoder's states; as many rows for every text."""
