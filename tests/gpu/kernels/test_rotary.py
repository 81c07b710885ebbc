"""Rotations of queries and keys, and their gradients, in shapes of decoding and of training; recorded as well."""

from __future__ import annotations

import pytest
import torch
from mmscale_kernels.rotary import rotate, rotate_reference

from tests.gpu.kernels.parameters import DTYPES, shapes, worst
from tests.kernels.cases import ROTARY_SHAPES, far, poisoned, rotary_inputs, rotated

LARGE = [(1, 32, 32, 8, 128, 1), (1, 32, 8, 2049, 128, 1), (1, 28, 4, 300, 64, 1), (2, 12, 3, 77, 96, 2)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_rotations_and_their_gradients_are_those_of_float64(device, near, record_property, dtype):
    distances = {}
    for shape in shapes(ROTARY_SHAPES, LARGE):
        parts = [part.to(device) for part in rotary_inputs(*shape, dtype=dtype)]
        with poisoned():
            found = rotated(rotate, parts)
        exact = rotated(rotate_reference, [part.double() for part in parts])
        for name, value, right in zip(("query", "key", "d query", "d key"), found, exact, strict=True):
            assert value.dtype == dtype
            distances[name, shape] = far(value, right)
    where, distance = worst(distances)
    record_property("worst", where)
    near(distance, 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps)  # one rounding


def test_a_recording_holds_them(device):
    if device.type != "cuda":
        pytest.skip("CUDA graphs are recorded on a GPU")
    parts = [part.to(device) for part in rotary_inputs(1, 32, 8, 8, 128, 1, dtype=torch.bfloat16)]
    rotate(*parts)  # compiles
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = rotate(*parts)
    for part in parts:
        part.mul_(0.5)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(out, rotate(*parts), strict=True))
    assert out[0].abs().sum() > 0
