"""MindMerger's mapping (arXiv 2405.17386, section 3.1): two linear layers with a ReLU, and the end boundary."""

from __future__ import annotations

import torch
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
    """Encoder states [E, d_enc] -> rows of the LLM's input [E, d_llm], and the row that ends them [d_llm].

    Five tensors named as published. The boundary comes out of `forward` because parameters that are partitioned
    over ranks are whole only inside their own module's forward.
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

    def forward(self, states_ED: Tensor) -> tuple[Tensor, Tensor]:
        return self.mlp(states_ED), self.end_boundary[0, 0]
