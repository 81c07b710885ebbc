"""The merge op equals its reference, writes every row once, and has the right gradient."""

from __future__ import annotations

import pytest
import torch
from mmscale_kernels import merge_rows, merge_rows_reference


def inputs(n: int, e: int, b: int, width: int, dtype=torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n + e + b, generator=generator)

    def rows(count):
        return torch.randn(count, width, generator=generator, dtype=torch.float64).to(dtype)

    return (rows(n), rows(e), rows(1)[0], order[:n], order[n : n + e], order[n + e :])


@pytest.mark.parametrize("shape", [(5, 7, 2, 3), (1, 1, 1, 1), (0, 3, 1, 5), (4, 0, 0, 47), (123, 47, 5, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equals_the_reference(shape, dtype):
    arguments = inputs(*shape, dtype=dtype)
    assert torch.equal(merge_rows(*arguments), merge_rows_reference(*arguments))


def test_gradient_and_registration():
    arguments = [a.requires_grad_(a.is_floating_point()) for a in inputs(4, 3, 2, 5)]
    assert torch.autograd.gradcheck(merge_rows, arguments)
    torch.library.opcheck(merge_rows, arguments)


@pytest.mark.parametrize(
    "change,message",
    [
        ({1: torch.zeros(3, 6)}, "widths differ"),
        ({3: torch.arange(2)}, "one place is needed"),
        ({2: torch.zeros(5)}, "dtypes differ"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(change, message):
    arguments = list(inputs(4, 3, 2, 5))
    for place, value in change.items():
        arguments[place] = value
    with pytest.raises(ValueError, match=message):
        merge_rows(*arguments)
