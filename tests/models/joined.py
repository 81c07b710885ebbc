"""Models with a connector whose every weight is large enough that mistakes show, and examples for them."""

from __future__ import annotations

import torch

from mmscale.data.segments import TokenizedExample
from mmscale.models.merge import MergedModel
from tests.conftest import VOCABULARY, random_merged


def merged_model(
    joined_by: str, language_model: str = "llama", encoder: str = "t5", dtype: torch.dtype = torch.float64
) -> MergedModel:
    model = random_merged(language_model, encoder, joined_by=joined_by)
    torch.manual_seed(3)
    for parameter in model.connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.to(dtype)


def examples(model: MergedModel) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(4, VOCABULARY, (count,), generator=generator).tolist())

    shapes = ((5, 3, 9), (0, 12, 1), (11, 1, 4), (2, 7, 17), (0, 1, 1))
    return [
        TokenizedExample(
            prompt_ids=ids(p), target_ids=(*ids(t), 2), encoder_ids=ids(e), prefix_length=model.prefix_length(e)
        )
        for p, t, e in shapes
    ]
