"""Causal attention of packed rows by each library, against SDPA in float64."""

from __future__ import annotations

import pytest
import torch

from mmscale.errors import UserError
from mmscale.models import varlen
from mmscale.models.attention import choose
from mmscale.models.packed_layout import PackedLayout
from tests.kernels.cases import far

LENGTHS = (300, 7, 1, 129, 64)
HEADS, WIDTH = 8, 128
LIBRARIES = {
    "packed_sdpa": varlen.padded_sdpa,
    "torch_varlen": varlen.torch_varlen,
    "flash_attention_2": varlen.flash_2,
    "flash_attention_3": varlen.flash_3,
}
BOUND = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""In 16 bits some three to ten roundings: of scores, of probabilities, of what is summed. In 32 bits a library may take
products in three parts of TF32."""


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("key_heads", [8, 2])
@pytest.mark.parametrize("dtype", [*BOUND], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("library", [*LIBRARIES])
def test_values_and_gradients_are_those_of_sdpa_in_float64(device, near, library, dtype, key_heads, window):
    try:
        choose(library, device)
    except UserError as error:
        pytest.skip(str(error))
    if library != "packed_sdpa" and dtype == torch.float32:
        pytest.skip(f"{library} computes in 16 bits alone")
    torch.manual_seed(1)
    rows = [torch.randn(sum(LENGTHS), heads, WIDTH).to(device, dtype) for heads in (HEADS, key_heads, key_heads)]
    upstream = torch.randn(rows[0].shape).to(rows[0])
    layout, scaling = PackedLayout(LENGTHS, device), WIDTH**-0.5
    wide = [row.double().requires_grad_() for row in rows]
    right = varlen.padded_sdpa(*wide, layout, scaling, 0.0, window)  # type: ignore[call-arg]
    exact = [right, *torch.autograd.grad(right, wide, upstream.double())]
    own = [row.requires_grad_() for row in rows]
    out = LIBRARIES[library](*own, layout, scaling, 0.0, window)  # type: ignore[call-arg]
    assert out.dtype == dtype
    ours = [out, *torch.autograd.grad(out, own, upstream)]
    near(max(far(a.detach(), b.detach()) for a, b in zip(ours, exact, strict=True)), BOUND[dtype])
