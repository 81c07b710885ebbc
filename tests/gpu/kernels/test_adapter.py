"""The mapping written into the merged row, by both ways of running its products."""

from __future__ import annotations

import pytest
import torch
from mmscale_kernels import adapter_choice
from mmscale_kernels.adapter import adapter_merge, adapter_merge_reference

from tests.gpu.kernels.parameters import BOUND, DTYPES, shapes, worst
from tests.kernels.cases import ADAPTER_SHAPES, adapter_inputs, far, poisoned, with_gradients

NAMES = ("merged", "states", "w1", "b1", "w2", "b2", "boundary", "tokens")
LARGE = (700, 300, 9, 512, 1024, 768)
"""Takes the large tile, several of them along each side."""


def inputs(device, shape, dtype):
    return [argument.to(device) for argument in adapter_inputs(*shape, dtype=dtype)]


def in_float64(arguments):
    return [argument.double() if argument.is_floating_point() else argument for argument in arguments]


@pytest.mark.parametrize("way", adapter_choice.WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_are_those_of_float64(device, near, record_property, dtype, way):
    # each small shape is compiled anew
    small, distances = ADAPTER_SHAPES if dtype == torch.float32 else ADAPTER_SHAPES[-1:], {}
    for shape in shapes(small, [LARGE]):
        arguments = inputs(device, shape, dtype)
        exact = with_gradients(adapter_merge_reference, in_float64(arguments))
        with adapter_choice.forced(way), poisoned():
            ours, again = (with_gradients(adapter_merge, arguments) for _ in range(2))
        for name, value, other, right in zip(NAMES, ours, again, exact, strict=True):
            assert value.dtype == dtype, name
            assert way != "triton" or torch.equal(value, other), f"{name} of {shape} differs from run to run"
            distances[name, shape] = far(value, right)
    where, distance = worst(distances)
    record_property("worst", where)
    near(distance, BOUND[dtype])


@pytest.mark.parametrize("way", adapter_choice.WAYS)
def test_a_float32_mapping_feeds_a_bfloat16_model(device, near, way):
    arguments = inputs(device, ADAPTER_SHAPES[-1], torch.float32)
    arguments[6] = arguments[6].bfloat16()
    with adapter_choice.forced(way), poisoned():
        merged = adapter_merge(*arguments)
    assert merged.dtype == torch.bfloat16
    near(far(merged, adapter_merge_reference(*in_float64(arguments))), torch.finfo(torch.bfloat16).eps)
