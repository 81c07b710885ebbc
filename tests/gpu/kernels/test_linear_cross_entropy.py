"""The fused loss, its gradients, and targets that another rank holds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from mmscale_kernels import linear_cross_entropy
from mmscale_kernels.softmax_rows import softmax_gradient_, softmax_statistics

from tests.gpu.kernels.parameters import BOUND, DTYPES, shapes, worst
from tests.kernels.cases import far, poisoned

SMALL = [(5, 3, 47), (123, 47, 129)]
LARGE = [(513, 256, 32_000), (200, 64, 128_256)]
"""Rows, width, vocabulary."""


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradients_are_those_of_float64(device, near, record_property, dtype, bias):
    distances = {}
    for shape in shapes(SMALL, LARGE):
        rows, width, vocabulary = shape
        torch.manual_seed(rows + vocabulary)
        values = [torch.randn(rows, width), torch.randn(vocabulary, width) / width**0.5]
        values += [torch.randn(vocabulary)] if bias else []
        targets = torch.randint(vocabulary, (rows,)).to(device)
        leaves = [value.to(device, dtype).requires_grad_() for value in values]
        wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
        right = F.cross_entropy(F.linear(*wide), targets, reduction="sum")
        exact = [right, *torch.autograd.grad(right, wide)]
        with poisoned():
            chunk = 50 * vocabulary * leaves[0].element_size()  # 50 rows
            loss = linear_cross_entropy(leaves[0], leaves[1], targets, *leaves[2:], chunk_bytes=chunk)
            gradients = torch.autograd.grad(2 * loss, leaves)
        assert loss.dtype == torch.float32 and all(gradient.dtype == dtype for gradient in gradients)
        ours = [loss, *(gradient.double() / 2 for gradient in gradients)]
        for name, value, other in zip(("loss", "hidden", "weight", "bias"), ours, exact, strict=False):
            distances[name, shape] = far(value.detach(), other.detach())
    where, distance = worst(distances)
    record_property("worst", where)
    near(distance, BOUND[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_scaled_by_the_factor_itself(device, near, dtype):
    """Not by the factor rounded to 16 bits, which would shrink or stretch all of a gradient."""
    torch.manual_seed(0)
    leaves = [torch.randn(size, 47).to(device, dtype).requires_grad_() for size in (123, 129)]
    hidden, weight = leaves
    loss = linear_cross_entropy(hidden, weight, torch.randint(129, (123,)).to(device))
    whole, third = torch.autograd.grad(loss, leaves, retain_graph=True), torch.autograd.grad(loss / 3, leaves)
    pairs = [(one.double(), other.double()) for one, other in zip(whole, third, strict=True)]
    # roundings of single entries cancel in the sum; a third in bfloat16 is 2e-3 too large
    near(max(float((3 * (a * b).sum() / (a * a).sum() - 1).abs()) for a, b in pairs), 3e-4)


def test_targets_of_other_ranks_count_as_nothing(device, near):
    torch.manual_seed(0)
    logits = torch.randn(4, 5000, device=device)
    targets = torch.tensor([-1, 5000, 4999, 1 << 40], device=device)
    lse, right = logits.double().logsumexp(1), torch.softmax(logits.double(), 1)
    right[2, 4999] -= 1
    with poisoned():
        largest, total, picked = softmax_statistics(logits, targets)
        assert picked.tolist() == [0, 0, logits[2, 4999].item(), 0]
        sums = far(largest + total.log(), lse)
        softmax_gradient_(logits, targets, lse.float())
    near(max(sums, far(logits, right)), BOUND[torch.float32])
