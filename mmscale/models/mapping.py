"""MindMerger's mapping (arXiv 2405.17386, section 3.1): two linear layers with a ReLU, and the end boundary."""

from __future__ import annotations

import torch
from mmscale_kernels import adapter_merge
from torch import Tensor, nn


class TwoLayerPerceptron(nn.Module):
    """Linear(d_enc, 2 d_enc) -> ReLU -> Linear(2 d_enc, d_llm)."""

    def __init__(self, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(encoder_width, 2 * encoder_width)
        self.linear2 = nn.Linear(2 * encoder_width, llm_width)

    def forward(self, states_ED: Tensor) -> Tensor:
        return self.linear2(torch.relu(self.linear1(states_ED)))


class Mapping(nn.Module):
    """Encoder states -> rows of the LLM's input, and the row that ends them; five tensors named as published.

    `forward` writes the merged row itself: parameters that are partitioned over ranks are whole only inside it.
    """

    def __init__(self, encoder_width: int, llm_width: int) -> None:
        super().__init__()
        self.mlp = TwoLayerPerceptron(encoder_width, llm_width)
        self.end_boundary = nn.Parameter(torch.zeros(1, 1, llm_width))

    @property
    def encoder_width(self) -> int:
        return self.mlp.linear1.in_features

    @property
    def llm_width(self) -> int:
        return self.mlp.linear2.out_features

    def forward(
        self, states_ED: Tensor, tokens_ND: Tensor, token_rows: Tensor, encoder_rows: Tensor, boundary_rows: Tensor
    ) -> Tensor:
        """The LLM's input [T, d_llm] of states [E, d_enc] and token embeddings [N, d_llm], in the latter's dtype."""
        one, two = self.mlp.linear1, self.mlp.linear2
        rows = token_rows, encoder_rows, boundary_rows
        return adapter_merge(
            states_ED, one.weight, one.bias, two.weight, two.bias, self.end_boundary[0, 0], tokens_ND, *rows
        )
