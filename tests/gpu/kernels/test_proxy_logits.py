"""The choice of a token from combined logits: the sums, the thresholds and the draws of float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mmscale_kernels.proxy_logits import Parts, _partials_reference, partials, thresholds

from tests.gpu.kernels.parameters import DTYPES, shapes, worst
from tests.kernels import proxy_cases
from tests.kernels.cases import poisoned

SMALL = [(4, 47, 3, 5), (3, 2049, 0, 5)]
LARGE = [(33, 32_000, 16_001, 5), (70, 128_256, 0, 0)]
"""Rows, columns, the first one's token, columns that the small models have beyond."""


def logits(device, rows: int, width: int, extra: int, dtype: torch.dtype) -> tuple[Parts, Parts]:
    """Logits of three models, and the same in float64."""
    made = vars(proxy_cases.logits(rows, width, extra, dtype))
    tensors = {name: value.to(device) for name, value in made.items() if isinstance(value, torch.Tensor)}
    parts = Parts(**tensors, alpha=made["alpha"])
    return parts, replace(parts, **{name: value.double() for name, value in tensors.items()})


@pytest.mark.parametrize("settings", proxy_cases.SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_and_choices_are_those_of_float64(device, near, record_property, dtype, settings):
    distances, others, count = {}, 0, 0
    # four kernels are compiled anew for each: all in float32, those of real models in bfloat16
    small = SMALL if dtype == torch.float32 else SMALL[:1]
    for rows, width, first, extra in shapes(small, [] if dtype == torch.float16 else LARGE):
        parts, exact = logits(device, rows, width, extra, dtype)
        how = proxy_cases.draws(rows, seed=2**40 + 3, first_row=2, device=str(device), **settings)
        right = _partials_reference(exact, how, first)
        with poisoned():
            ours = partials(parts, how, first)
        same = ours[:, 3].double() == right[:, 3]
        others, count = others + int((~same).sum()), count + rows
        difference = (ours.double() - right)[same].abs() / (1 + right[same].abs())
        distances[rows, width] = float(difference.max()) if same.any() else float("inf")
    where, distance = worst(distances)
    record_property("worst", where)
    record_property("otherwise drawn", f"{others} of {count} rows")
    # a draw may fall to either side of a near-tie: sums and logarithms are rounded otherwise
    assert others <= count // 50
    near(distance, 1e-4)


@pytest.mark.parametrize("settings", proxy_cases.SETTINGS[2:], ids=str)
def test_thresholds_are_those_of_sorting(device, near, settings):
    from mmscale_kernels.gpu import truncation

    parts, exact = logits(device, 4, 123, 5, torch.float32)
    how = proxy_cases.draws(4, device=str(device), **settings)
    right = thresholds(exact.combined() / how.temperature.double()[:, None], how)
    with poisoned():
        ours = truncation.thresholds(parts, how)
    near(float((ours.double() - right).abs().max()), 1e-5)
