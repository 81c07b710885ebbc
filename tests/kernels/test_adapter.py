"""The mapping written into the merged row: equal to its definition in float64, values and gradients, any shape."""

from __future__ import annotations

import pytest
import torch
from mmscale_kernels.adapter import _adapter, _adapter_backward, adapter_merge, adapter_merge_reference

from tests.kernels.cases import ADAPTER_SHAPES, adapter_inputs, far, with_gradients

NAMES = ("merged", "states", "w1", "b1", "w2", "b2", "boundary", "tokens")


@pytest.mark.parametrize("shape", ADAPTER_SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_equals_float64(shape, dtype, bound):
    arguments = adapter_inputs(*shape, dtype=dtype)
    found = with_gradients(adapter_merge, arguments)
    exact = with_gradients(adapter_merge_reference, [a.double() if a.is_floating_point() else a for a in arguments])
    for name, value, right in zip(NAMES, found, exact, strict=True):
        assert value.dtype == dtype and far(value, right) < bound, name


def test_gradients_and_registration():
    arguments = adapter_inputs(3, 2, 2, 4, 5, 6, dtype=torch.float64)
    leaves = [a.requires_grad_(a.is_floating_point()) for a in arguments]
    assert torch.autograd.gradcheck(adapter_merge, leaves)
    torch.library.opcheck(_adapter, leaves)
    hidden = torch.relu(torch.randn(3, 5)).double()
    rest = [a.detach() for a in (leaves[0], hidden, leaves[1], leaves[3], leaves[8])]
    for for_states in (False, True):
        torch.library.opcheck(_adapter_backward, (torch.randn(7, 6).double(), *rest, for_states))


def test_only_what_is_trained_has_a_gradient():
    arguments = adapter_inputs(3, 2, 2, 4, 5, 6, dtype=torch.float32)
    arguments[5].requires_grad_()
    adapter_merge(*arguments).sum().backward()
    assert torch.equal(arguments[5].grad, torch.full((6,), 2.0)), "the boundary stands in two rows"
    assert all(a.grad is None for i, a in enumerate(arguments) if i != 5)


def test_a_float32_mapping_feeds_a_bfloat16_model_and_autocast_is_heeded():
    arguments = adapter_inputs(9, 5, 2, 8, 16, 12, dtype=torch.float32)
    arguments[6] = arguments[6].bfloat16()
    merged = adapter_merge(*arguments)
    right = adapter_merge_reference(*arguments)
    assert merged.dtype == torch.bfloat16 and torch.equal(merged, right)
    with torch.autocast("cpu", torch.bfloat16):
        low = adapter_merge(*arguments)
        assert torch.equal(low, adapter_merge_reference(*arguments))
    assert not torch.equal(low, merged)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, torch.zeros(3, 5), "mapping's shapes do not fit"),
        (3, torch.zeros(6, 4), "mapping's shapes do not fit"),
        (5, torch.zeros(5), "widths differ"),
        (6, torch.zeros(2, 7), "widths differ"),
        (8, torch.arange(2), "one place is needed"),
    ],
)
def test_what_does_not_fit_is_refused(place, value, message):
    arguments = adapter_inputs(3, 2, 2, 4, 5, 6, dtype=torch.float32)
    arguments[place] = value
    with pytest.raises(ValueError, match=message):
        adapter_merge(*arguments)
