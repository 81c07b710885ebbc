"""One linear layer instead of two, and an end boundary."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmscale.models.connectors import Connector, ConnectorKind


class LinearConnector(Connector):
    def __init__(self, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.encoder_width, self.llm_width = encoder_width, llm_width
        self.weight = nn.Parameter(torch.randn(llm_width, encoder_width) * encoder_width**-0.5)
        self.end = nn.Parameter(torch.zeros(llm_width))

    def forward(
        self,
        states_ED: Tensor,
        tokens_ND: Tensor,
        token_rows: Tensor,
        encoder_rows: Tensor,
        boundary_rows: Tensor,
        encoder_lengths: Sequence[int],
    ) -> Tensor:
        dtype, total = tokens_ND.dtype, len(token_rows) + len(encoder_rows) + len(boundary_rows)
        connected = nn.functional.linear(states_ED.to(self.weight.dtype), self.weight).to(dtype)
        ends = self.end.to(dtype).expand(len(boundary_rows), -1)
        merged = tokens_ND.new_zeros(total, self.llm_width).index_copy(0, token_rows, tokens_ND)
        return merged.index_copy(0, encoder_rows, connected).index_copy(0, boundary_rows, ends)


CONNECTOR = ConnectorKind("one_layer", LinearConnector)
