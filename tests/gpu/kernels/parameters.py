"""Dtypes and bounds of the kernels' tests, and which shapes they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from mmscale_kernels.dispatch import interpreted

BOUND = {torch.float32: 1e-5, **{dtype: 2.5 * torch.finfo(dtype).eps for dtype in (torch.float16, torch.bfloat16)}}
"""Norm of the error over that of what is right: in 16 bits five roundings of what is stored between two products, one after
the other; in 32 bits some hundred, the sums' own."""
WRONG = pytest.mark.skipif(interpreted(), reason="Triton's interpreter computes bfloat16 wrongly")
DTYPES = [
    pytest.param(torch.float32, id="fp32"),
    pytest.param(torch.float16, id="fp16"),
    pytest.param(torch.bfloat16, id="bf16", marks=WRONG),
]


def shapes(small: Sequence[Any], large: Sequence[Any]) -> list[Any]:
    """Without those that Triton's interpreter would take minutes for."""
    return [*small] if interpreted() else [*small, *large]


def worst(distances: dict[Any, float]) -> tuple[Any, float]:
    """What is the farthest from right, and how far; what is no number is farther than any."""
    return max(distances.items(), key=lambda item: float("inf") if item[1] != item[1] else item[1])
