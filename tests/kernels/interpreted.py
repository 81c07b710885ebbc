"""Every Triton kernel under the interpreter, against float64: pytest tests/kernels/interpreted.py, in a process of its own
(tests/kernels/test_interpreted.py starts it), since the interpreter has to be chosen before a kernel is imported.

bfloat16 is left out: the interpreter computes it wrongly, and proves nothing about it.
"""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from mmscale_kernels import adapter_choice, implementations, linear_cross_entropy
from mmscale_kernels.adapter import adapter_merge, adapter_merge_reference
from mmscale_kernels.dispatch import interpreted
from mmscale_kernels.gpu import matmul, rows, softmax_rows, truncation
from mmscale_kernels.gpu import proxy_logits as proxy_gpu
from mmscale_kernels.proxy_logits import _chosen, _partials_reference, proxy_choose, thresholds
from mmscale_kernels.rotary import rotate, rotate_reference
from torch import Tensor

from tests.kernels import proxy_cases
from tests.kernels.cases import (
    ADAPTER_SHAPES,
    ROTARY_SHAPES,
    adapter_inputs,
    far,
    poisoned,
    rotary_inputs,
    rotated,
    with_gradients,
)
from tests.kernels.proxy_cases import SETTINGS

BOUNDS = [(torch.float32, 1e-5), (torch.float16, 5e-3)]


@pytest.fixture(autouse=True)
def poison():
    assert interpreted() and set(implementations(torch.device("cpu")).values()) == {"triton"}
    with poisoned():
        yield


@pytest.fixture(params=[matmul.Tile(32, 32, 16, 1, 1), matmul.Tile(16, 64, 32, 1, 1)], ids=["32x32x16", "16x64x32"])
def tile(request, monkeypatch):
    monkeypatch.setattr(matmul, "tile_for", lambda *_: request.param)


@pytest.mark.parametrize("way", adapter_choice.WAYS)
@pytest.mark.parametrize("shape", ADAPTER_SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_adapter(tile, shape, dtype, bound, way):
    arguments = adapter_inputs(*shape, dtype=dtype)
    with adapter_choice.forced(way):
        found = with_gradients(adapter_merge, arguments)
    exact = with_gradients(adapter_merge_reference, [a.double() if a.is_floating_point() else a for a in arguments])
    names = ("merged", "states", "w1", "b1", "w2", "b2", "boundary", "tokens")
    for name, value, right in zip(names, found, exact, strict=True):
        assert value.dtype == dtype and far(value, right) < bound, name


@pytest.mark.parametrize("tile", [matmul.Tile(32, 32, 16, 1, 1)], indirect=True)
@pytest.mark.parametrize("way", adapter_choice.WAYS)
def test_the_adapter_gives_the_same_bits_every_time(tile, way):
    """Nothing of it is left over from the call before; in which order programs add, tests/gpu sees."""
    arguments = adapter_inputs(*ADAPTER_SHAPES[1], dtype=torch.float32)
    with adapter_choice.forced(way):
        runs = [with_gradients(adapter_merge, arguments) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (0, 5), (5, 0), (41, 70)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_are_moved_and_summed_at_once(monkeypatch, shape, dtype):
    monkeypatch.setattr(rows, "SUM_TILE", rows.SumTile(16, 32, 1))
    count, width = shape
    torch.manual_seed(count)
    source, places = torch.randn(2 * count, width), torch.randperm(2 * count)[:count]
    moved, right = torch.empty(count, width, dtype=dtype), source[places].to(dtype)
    sums = rows.gather_and_sum(source, places, moved)
    assert torch.equal(moved, right) and sums.dtype == torch.float32
    assert far(sums, right.double().sum(0)) < 1e-6, "sums of what was written, not of what was read"
    kept = torch.randn(count, width).relu().to(dtype)
    kept[:1, :1] = float("nan")  # no slope of 0, as by PyTorch
    right = right.masked_fill(kept <= 0, 0)
    assert not right.numel() or right[0, 0] == moved[0, 0]
    sums = rows.cut_and_sum(moved, kept)
    assert torch.equal(moved, right) and far(sums, right.double().sum(0)) < 1e-6


def test_a_row_of_more_entries_than_a_program_takes_at_once_is_moved_whole(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 32)
    source, places = torch.randn(5, 70), torch.randperm(5)
    moved = torch.empty(5, 70)
    rows.scatter(source, places, moved)
    assert torch.equal(moved[places], source)


def test_what_was_measured_decides(tmp_path, monkeypatch, capsys):
    """The command measures both ways, and its table is what `auto` follows."""
    monkeypatch.setenv("MMSCALE_ADAPTER_TABLE", str(tmp_path / "table.json"))
    monkeypatch.setenv("MMSCALE_RESULTS", str(tmp_path))
    monkeypatch.setattr(matmul, "tile_for", lambda *_: matmul.Tile(16, 16, 16, 1, 1))
    measuring = importlib.import_module("benchmarks.adapter_choice")
    shape = adapter_choice.Shape(20, 8, 16, 12)
    row = measuring.measure(shape, torch.device("cpu"), torch.float32, 1)
    assert row["forward"] in adapter_choice.WAYS and row["backward"] in adapter_choice.WAYS
    assert all(taken > 0 for way in row["milliseconds"].values() for taken in way.values())
    measuring.keep([{**row, "forward": "triton", "backward": "library"}])
    monkeypatch.setenv("MMSCALE_KERNELS", "auto")
    monkeypatch.setattr(adapter_choice, "use_triton", lambda _: True)
    assert adapter_choice.choose(torch.device("cpu"), torch.float32, shape) == ("triton", "library")


def head(rows: int, width: int, vocabulary: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(rows)
    return [
        torch.randn(rows, width).to(dtype),
        torch.randn(vocabulary, width).to(dtype),
        torch.randint(vocabulary, (rows,)),
    ]


def whole(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 47), (47, 8, 5), (23, 17, 129)])
@pytest.mark.parametrize(("dtype", "bound"), BOUNDS)
def test_linear_cross_entropy(monkeypatch, shape, dtype, bound):
    monkeypatch.setattr(softmax_rows, "BLOCK", 32)
    values = head(*shape, dtype)  # type: ignore[call-arg]
    found = with_gradients(lambda *v: linear_cross_entropy(*v, chunk_bytes=7 * shape[2] * 4), values)
    exact = with_gradients(whole, [v.double() if v.is_floating_point() else v for v in values])
    for value, right in zip(found, exact, strict=True):
        assert far(value, right) < bound or (shape[2] == 1 and not value.any())


def test_targets_of_other_ranks_count_as_nothing(monkeypatch):
    monkeypatch.setattr(softmax_rows, "BLOCK", 32)
    logits, targets = torch.randn(4, 40), torch.tensor([-1, 40, 39, 1 << 40])
    statistics = softmax_rows.statistics(logits, targets)
    assert statistics[2].tolist() == [0, 0, logits[2, 39].item(), 0]
    lse = logits.logsumexp(1)
    right = torch.softmax(logits, 1)
    right[2, 39] -= 1
    softmax_rows.gradient_(logits, targets, lse)
    assert torch.allclose(logits, right, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(
    ("width", "first", "dtype"), [(1, 0, torch.float32), (47, 3, torch.float16), (123, 5, torch.float32)]
)
def test_proxy_logits(monkeypatch, settings, dtype, width, first):
    """The choice, and the sums, are those of PyTorch's implementation, which the other tests hold to the definition."""
    small_blocks(monkeypatch)
    parts = proxy_cases.logits(4, width, 5, dtype, combines=width != 1)
    how = proxy_cases.draws(4, seed=2**40 + 3, first_row=2, **settings)
    found = proxy_gpu.partials(parts, how, first)
    right = _partials_reference(parts, how, first)
    assert torch.equal(found[:, 3], right[:, 3])
    assert torch.allclose(found, right, rtol=1e-5, atol=1e-5)
    chosen, exact = proxy_choose(parts, how, first), _chosen(right)
    assert torch.equal(chosen.token, exact.token)
    assert torch.allclose(chosen.log_probability, exact.log_probability, rtol=1e-5, atol=1e-5)
    assert torch.allclose(chosen.log_sum_exp, exact.log_sum_exp, rtol=1e-5, atol=1e-5)


def small_blocks(monkeypatch) -> None:
    for module in (proxy_gpu, truncation):
        monkeypatch.setattr(module, "BLOCK", 32)
        monkeypatch.setattr(module, "WARPS", 1)
    monkeypatch.setattr(truncation, "SEARCH_BLOCK", 32)


@pytest.mark.parametrize("room", [4, 32], ids=["too many to collect", "collected"])
@pytest.mark.parametrize("settings", [*SETTINGS[2:], {"temperature": 1.0, "top_k": 2}])
def test_thresholds_are_those_of_sorting(monkeypatch, settings, room):
    """Whether the numbers above the bound are few, or a row is searched whole; also where models mask tokens, and numbers tie."""
    small_blocks(monkeypatch)
    monkeypatch.setattr(truncation, "ROOM", room)
    parts = proxy_cases.logits(5, 123, 5, torch.float32)
    parts.base[1] = 0.25 * parts.base[1].round()
    parts.base[2, ::2] = float("-inf")
    parts.base[3], parts.expert[3], parts.antiexpert[3] = 2.0, 0.0, 0.0
    how = proxy_cases.draws(5, **settings)
    scaled = parts.combined() / how.temperature[:, None]
    exact, found = thresholds(scaled, how), truncation.thresholds(parts, how)
    nearest = torch.where(scaled >= found[:, None] - 1e-6, scaled, float("inf")).amin(
        1
    )  # min-p names no number of the row
    right = torch.where(scaled >= exact[:, None] - 1e-6, scaled, float("inf")).amin(1)
    assert torch.allclose(nearest, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", ROTARY_SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.float16, torch.finfo(torch.float16).eps)])
def test_rotations(shape, dtype, bound):
    parts = rotary_inputs(*shape, dtype=dtype)
    found, exact = rotated(rotate, parts), rotated(rotate_reference, [part.double() for part in parts])
    for value, right in zip(found, exact, strict=True):
        assert value.dtype == dtype and far(value, right) < bound
    assert all(value.stride() == part.stride() for value, part in zip(found[:2], parts, strict=False) if part.numel())


def test_narrow_states_that_meet_wide_angles_come_out_wide():
    """A float32 model's under autocast, whose projections are of 16 bits and whose cosines are not."""
    *parts, cos, sin = rotary_inputs(*ROTARY_SHAPES[0], dtype=torch.float16)
    query, key, *gradients = rotated(rotate, [*parts, cos.float(), sin.float()])
    exact = rotate_reference(*(part.double() for part in (*parts, cos, sin)))
    assert query.dtype == key.dtype == torch.float32 and {one.dtype for one in gradients} == {torch.float16}
    assert far(query, exact[0]) < 1e-6 and far(key, exact[1]) < 1e-6


def test_a_dtype_that_triton_cannot_take_is_refused():
    with pytest.raises(ValueError, match="take float16, bfloat16 or float32 logits, not torch.float64"):
        linear_cross_entropy(*head(3, 2, 4, torch.float64))
    with pytest.raises(ValueError, match="takes float16, bfloat16 or float32, not torch.float64"):
        adapter_merge(*adapter_inputs(3, 2, 2, 4, 5, 6, dtype=torch.float64))
