"""Cross entropy through the head: equal to PyTorch's in float64, whatever the chunks; its ops are registered rightly."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from mmscale_kernels import linear_cross_entropy
from mmscale_kernels.softmax_rows import softmax_gradient_, softmax_statistics

from benchmarks.memory import peak_bytes
from tests.distributed import ranks

SHAPES = [(1, 1, 1), (5, 3, 47), (47, 16, 5), (123, 47, 129), (0, 4, 7)]


def inputs(rows: int, width: int, vocabulary: int, dtype: torch.dtype, bias: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(rows + vocabulary)
    values = [torch.randn(rows, width), torch.randn(vocabulary, width), torch.randint(vocabulary, (rows,))]
    values += [torch.randn(vocabulary)] if bias else []
    return [value.to(dtype).requires_grad_() if value.is_floating_point() else value for value in values]


def expected(values: list[torch.Tensor]) -> list[torch.Tensor]:
    """Loss and gradients in float64, from the same (rounded) inputs."""
    exact = [v.detach().double().requires_grad_() if v.is_floating_point() else v for v in values]
    loss = F.cross_entropy(F.linear(exact[0], exact[1], *exact[3:]), exact[2], reduction="sum")
    return [loss.detach(), *torch.autograd.grad(loss, [v for v in exact if v.is_floating_point()])]


def far(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Norm of the difference over the norm of what is right."""
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30)) if exact.numel() else 0.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk_rows", [1, 7, 1000])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_equals_float64(shape, chunk_rows, bias, dtype, bound):
    values = inputs(*shape, dtype, bias)  # type: ignore[call-arg]
    chunk = chunk_rows * shape[2] * values[0].element_size()
    loss = linear_cross_entropy(*values, chunk_bytes=chunk)
    found = [loss.detach(), *torch.autograd.grad(2 * loss, [v for v in values if v.requires_grad])]
    exact = expected(values)
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    if shape == (1, 1, 1):  # one entry: loss and gradients are 0
        assert all(not value.any() for value in found)
        return
    assert far(found[0], exact[0]) < bound
    for gradient, right in zip(found[1:], exact[1:], strict=True):
        assert far(gradient / 2, right) < bound


def test_sixteen_bit_products_are_added_to_a_float32_total_in_place(monkeypatch):
    """By the two ops that cuBLAS has for it, here with CPU implementations of their own."""
    in_place = []

    def product(left, right, out_dtype):
        return left.to(out_dtype) @ right.to(out_dtype)

    def add_product(total, left, right, out_dtype, *, beta=1, alpha=1, out):
        in_place.append(out is total or out.data_ptr() == total.data_ptr())
        return out.copy_(beta * total + alpha * product(left, right, out_dtype))

    monkeypatch.setattr(importlib.import_module(linear_cross_entropy.__module__), "_sums_wider", lambda _: True)
    values = inputs(123, 47, 129, torch.bfloat16)
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("mm.dtype", product, "CPU")
        library.impl("addmm.dtype_out", add_product, "CPU")
        loss = linear_cross_entropy(*values, chunk_bytes=50 * 129 * 2)
    assert in_place == [True, True], "three chunks: one product, and two that are added to it"
    gradient = torch.autograd.grad(loss, values[1])[0]
    assert gradient.dtype == torch.bfloat16 and far(gradient, expected(values)[2]) < 1e-2


@pytest.mark.parametrize("chunk_rows", [1, 3, 1000])
def test_capped_logits_equal_float64(chunk_rows):
    hidden, weight, targets, bias = inputs(11, 5, 23, torch.float64, bias=True)
    loss = linear_cross_entropy(hidden, weight, targets, bias, chunk_bytes=chunk_rows * 23 * 8, softcap=1.5)
    logits = 1.5 * torch.tanh(F.linear(hidden, weight, bias) / 1.5)
    right = F.cross_entropy(logits, targets, reduction="sum")
    assert far(loss.detach(), right.detach()) < 1e-12
    for found, exact in zip(
        *(torch.autograd.grad(2 * one, (hidden, weight, bias)) for one in (loss, right)), strict=True
    ):
        assert far(found, exact) < 1e-12


def test_gradient_and_registration():
    hidden, weight, targets, bias = inputs(5, 3, 7, torch.float64, bias=True)
    assert torch.autograd.gradcheck(lambda *v: linear_cross_entropy(v[0], v[1], targets, v[2]), (hidden, weight, bias))
    logits = torch.randn(5, 7)
    elsewhere = torch.tensor([0, 6, -1, 7, 3])
    torch.library.opcheck(softmax_statistics, (logits, elsewhere))
    torch.library.opcheck(softmax_gradient_, (logits, elsewhere, torch.randn(5)))


def test_a_frozen_head_has_no_gradient_and_nothing_is_made_for_one():
    hidden, weight, targets = inputs(512, 32, 4000, torch.float32)
    weight.requires_grad_(False)
    linear_cross_entropy(hidden, weight, targets).backward()
    assert weight.grad is None and far(hidden.grad, expected([hidden, weight, targets])[1]) < 1e-5

    def one() -> None:
        linear_cross_entropy(hidden, weight, targets).backward()

    assert peak_bytes(one) < 1.5 * 512 * 4000 * 4, "logits once, and no weight gradient"


def test_logits_exist_a_chunk_at_a_time():
    hidden, weight, targets = inputs(1024, 16, 4000, torch.float32)
    chunk = 32 * 4000 * 4

    def one() -> None:
        linear_cross_entropy(hidden, weight, targets, chunk_bytes=chunk).backward()

    one()  # the gradients themselves are there afterwards
    rest = (
        2 * hidden.numel() * 4 + 3 * weight.numel() * 4 + 2**22
    )  # gradients, scaled; a block of the processor's cache
    assert peak_bytes(one) < chunk + rest < 0.5 * 1024 * 4000 * 4


def test_without_gradients_only_the_loss_is_made():
    hidden, weight, targets = inputs(9, 4, 11, torch.float32)
    with torch.no_grad():
        loss = linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad and far(loss, expected([hidden, weight, targets])[0]) < 1e-5


def test_autocast_computes_in_its_dtype():
    hidden, weight, targets = inputs(40, 16, 30, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, targets)
    loss.backward()
    assert loss.dtype == hidden.grad.dtype == weight.grad.dtype == torch.float32
    low = [v.detach().bfloat16().requires_grad_() if v.is_floating_point() else v for v in (hidden, weight, targets)]
    again = linear_cross_entropy(*low)
    assert torch.equal(again, loss)
    assert 0 < far(hidden.grad, expected([hidden, weight, targets])[1]) < 1e-2


def test_a_vocabulary_cut_over_three_ranks_is_the_whole_one(tmp_path):
    """One of the ranks has none of it."""
    ranks.run(3, ["tests/kernels/vocabulary_worker.py"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({0: torch.zeros(4, 5)}, "hidden \\[N, D\\] and weight"),
        ({2: torch.zeros(3, dtype=torch.int64)}, "one target a row"),
        ({1: torch.zeros(6, 3).half()}, "of one dtype"),
        ({2: torch.zeros(4, dtype=torch.int32)}, "targets int64"),
        ({3: torch.zeros(5)}, "one bias per row"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    values = {0: torch.zeros(4, 3), 1: torch.zeros(6, 3), 2: torch.zeros(4, dtype=torch.int64)} | change
    with pytest.raises(ValueError, match=message):
        linear_cross_entropy(*values.values())
