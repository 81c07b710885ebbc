"""Frozen weights in 4 and 8 bits on a GPU: the values that layers hold, and what they compute with them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="extra `quantization` is not installed")

from mmscale.config.model import LanguageModelConfig
from mmscale.models.language_model import load_language_model
from mmscale.parallel.context import ParallelContext
from tests.kernels.cases import far
from tests.models.test_quantization import QUANTIZATIONS, dequantised, half_a_step, path, quantised_layers

__all__ = ["path"]
"""A fixture."""
BOUND = {("nf4", "float32"): 1e-5, ("nf4", "bfloat16"): 2e-2, ("int8", "float32"): 2e-2, ("int8", "bfloat16"): 3e-2}
"""int8 rounds what enters as well, to float16 and to 127 steps of each row's largest value."""


def load(path: str, device: torch.device, quantization: str, dtype: str):
    config = LanguageModelConfig(path=path, quantization=quantization, dtype=dtype)
    return load_language_model(config, ParallelContext(device=device))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_layers_hold_the_nearest_values_and_compute_with_them(device, near, path, quantization, dtype):
    whole, small = load(path, device, "none", dtype), load(path, device, quantization, dtype)
    distances = []
    for name, layer in quantised_layers(small).items():
        given, held = whole.causal_lm.get_submodule(name).weight.data.double(), dequantised(layer)
        assert ((held - given).abs() <= half_a_step(layer, given)).all(), name
        torch.manual_seed(0)
        x = torch.randn(37, given.shape[1]).to(device, getattr(torch, dtype)).requires_grad_()
        y = layer(x)
        upstream = torch.randn(y.shape).to(y)
        (back,) = torch.autograd.grad(y, x, upstream)
        distances += [far(y.detach(), x.detach().double() @ held.T), far(back, upstream.double() @ held)]
    assert len(distances) == 2 * 7 * small.config.num_hidden_layers
    near(max(distances), BOUND[quantization, dtype])
