"""Causal attention of packed rows by each library, against SDPA in float64."""

from __future__ import annotations

import pytest
import torch

from mmscale.errors import UserError
from mmscale.models import attention, varlen
from mmscale.models.attention import choose
from mmscale.models.packed_layout import PackedLayout
from tests.kernels.cases import far, poisoned

LENGTHS = (300, 7, 1, 129, 64)
HEADS, WIDTH = 8, 128
LIBRARIES = ("auto", "packed_sdpa", "torch_varlen", "flash_attention_2", "flash_attention_3")
FUNCTIONS = {
    attention.PACKED_SDPA: varlen.padded_sdpa,
    attention.PACKED_TORCH: varlen.torch_varlen,
    attention.PACKED_TORCH_OR_SDPA: varlen.torch_varlen_or_sdpa,
    attention.PACKED_FLASH: varlen.flash_2,
    attention.PACKED_FLASH_3: varlen.flash_3,
}
BOUND = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2}
"""In 16 bits some three to ten roundings: of scores, of probabilities, of what is summed. In 32 bits a library may take
products in three parts of TF32."""


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("key_heads", [8, 2])
@pytest.mark.parametrize("dtype", [*BOUND], ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_values_and_gradients_are_those_of_sdpa_in_float64(device, near, library, dtype, key_heads, window):
    try:
        name = choose(library, device)
    except UserError as error:
        pytest.skip(str(error))
    if name not in (attention.PACKED_SDPA, attention.PACKED_TORCH_OR_SDPA) and dtype == torch.float32:
        pytest.skip(f"{library} computes in 16 bits alone")
    torch.manual_seed(1)
    rows = [torch.randn(sum(LENGTHS), heads, WIDTH).to(device, dtype) for heads in (HEADS, key_heads, key_heads)]
    upstream = torch.randn(rows[0].shape).to(rows[0])
    layout, scaling = PackedLayout(LENGTHS, device), WIDTH**-0.5
    wide = [row.double().requires_grad_() for row in rows]
    right = varlen.padded_sdpa(*wide, layout, scaling, 0.0, window)  # type: ignore[call-arg]
    exact = [right, *torch.autograd.grad(right, wide, upstream.double())]
    own = [row.requires_grad_() for row in rows]
    out = FUNCTIONS[name](*own, layout, scaling, 0.0, window)  # type: ignore[call-arg]
    assert out.dtype == dtype
    ours = [out, *torch.autograd.grad(out, own, upstream)]
    near(max(far(a.detach(), b.detach()) for a, b in zip(ours, exact, strict=True)), BOUND[dtype])


@pytest.mark.parametrize("window", [None, 500])
@pytest.mark.parametrize("library", ["auto", "packed_sdpa"])
def test_gradients_in_16_bits_are_the_same_again_where_that_is_asked(device, library, window):
    """The sequences are so long that many blocks add to the same gradient, in whatever order they come."""
    attend, heads, scaling = FUNCTIONS[choose(library, device)], (HEADS, 2, 2), WIDTH**-0.5
    layout = PackedLayout((2000, 900) if device.type == "cuda" else (200, 90), device)
    torch.manual_seed(1)
    rows = [torch.randn(sum(layout.lengths), n, WIDTH).to(device, torch.bfloat16).requires_grad_() for n in heads]
    upstream = torch.randn(rows[0].shape).to(rows[0])
    with poisoned():  # under deterministic algorithms, and memory full of what is no number
        first, *others = [
            torch.autograd.grad(attend(*rows, layout, scaling, 0.0, window), rows, upstream)  # type: ignore[call-arg]
            for _ in range(4)
        ]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))
    assert all(gradient.isfinite().all() for gradient in first)
