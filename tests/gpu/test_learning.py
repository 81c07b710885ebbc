"""Loss and gradients of packed rows, against float64 on the CPU: every family of language model and encoder."""

from __future__ import annotations

import contextlib

import pytest
import torch

from mmscale.data.packing import pack
from mmscale.models import packed_layout
from mmscale.models.attention import PACKED_FLASH, PACKED_FLASH_3, PACKED_SDPA, choose
from mmscale.training.objective import CausalObjective
from tests.conftest import random_merged
from tests.models.test_packed_rows import ENCODERS, LANGUAGE_MODELS, SPECIALS, examples

PAIRS = [*((family, None) for family in LANGUAGE_MODELS), *(("llama", encoder) for encoder in ENCODERS)]


def learnt(family, encoder, device, dtype, autocast=False, attention=PACKED_SDPA) -> list[torch.Tensor]:
    """Loss, and the gradients of the mapping, or of the whole language model where there is none."""
    model = random_merged(family, encoder, attention).to(device, dtype)
    model.requires_grad_(False)
    (model.connector or model.language_model).requires_grad_(True)
    row = pack(examples(encoder is not None), SPECIALS).to(device)
    with torch.autocast(device.type, torch.bfloat16) if autocast else contextlib.nullcontext():
        loss = CausalObjective(model).loss_sum(row)
    loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    return [one.detach().double().cpu() for one in (loss, *gradients)]


def apart(ours: list[torch.Tensor], right: list[torch.Tensor]) -> float:
    """Largest error of a gradient, relative to it, or to a hundredth of all of them together where it is less than that."""
    whole = float(torch.cat([one.flatten() for one in right]).norm())
    return max(float((a - b).norm()) / max(float(b.norm()), whole / 100) for a, b in zip(ours, right, strict=True))


@pytest.mark.parametrize("attends", ["auto", "packed_sdpa"])
@pytest.mark.parametrize("precision", ["fp32", "autocast"])
@pytest.mark.parametrize(("family", "encoder"), PAIRS)
def test_loss_and_gradients_are_those_of_float64(
    device, near, record_property, monkeypatch, family, encoder, precision, attends
):
    attention = choose(attends, device)
    if attends == "packed_sdpa" and attention == choose("auto", device):
        pytest.skip("auto takes this one here")
    if attention in (PACKED_FLASH, PACKED_FLASH_3) and precision == "fp32":
        pytest.skip("flash-attn computes in 16 bits alone")
    monkeypatch.setitem(packed_layout._GRID, device.type, 16)  # several grids for these short sequences
    right = learnt(family, encoder, torch.device("cpu"), torch.float64)
    ours = learnt(family, encoder, device, torch.float32, precision == "autocast", attention)
    assert len(right) == len(ours) > 1
    loss = abs(float(ours[0] - right[0]) / float(right[0]))
    record_property("loss off by", f"{loss:.1e}")
    record_property("attention", attention)
    assert loss < (1e-5 if precision == "fp32" else 2e-2)
    near(apart(ours[1:], right[1:]), 1e-4 if precision == "fp32" else 1e-1)
