"""Kernels run by Triton, whatever is chosen elsewhere."""

from __future__ import annotations

import pytest
from mmscale_kernels import implementations
from mmscale_kernels.dispatch import SWITCH, has_triton, interpreted


@pytest.fixture(autouse=True)
def triton_kernels(device, usual_implementations, monkeypatch):
    if not has_triton():
        pytest.skip("Triton is not installed")
    if device.type == "cpu" and not interpreted():
        pytest.skip("Triton's kernels run on a CPU under its interpreter alone: TRITON_INTERPRET=1")
    monkeypatch.setenv(SWITCH, "triton")
    assert set(implementations(device).values()) == {"triton"}
