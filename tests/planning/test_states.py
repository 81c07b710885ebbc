"""Weights, gradients and optimizer state of real ranks, byte for byte as planned, and what they send to each other."""

from __future__ import annotations

import json

import pytest

from mmscale.config.parallel import ZeroConfig
from mmscale.planning.memory import Trained, state_bytes
from mmscale.planning.parallel_plan import ParallelPlan
from tests.distributed import ranks


def test_three_ranks_hold_what_was_planned(tmp_path):
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    said = ranks.output(3, ["tests/planning/states_worker.py", str(tmp_path)])
    results = json.loads(said.strip().splitlines()[-1])
    assert len(results) == 8
    for name, result in results.items():
        found, planned = result["held"]
        assert found == planned, name
        sent, traffic = result["sent"]
        assert sent == pytest.approx(traffic, rel=1e-3), f"{name}: bytes that a rank sends in a step of two rows"


def test_zero_3_agrees_with_deepspeeds_own_estimator():
    """Theirs: 18 B a parameter over the GPUs, and 4 B an element of the largest layer, which we count as gathered."""
    estimators = pytest.importorskip("deepspeed.runtime.zero.stage3", reason="extra deepspeed")
    parameters, ranks_in_all = 7_000_000_000, 16
    _, expected, largest = estimators.estimate_zero3_model_states_mem_needs(
        parameters, 200_000_000, 8, 2, cpu_offload=False, cpu_offload_params=False, zero_init=True
    )
    sizes = (200_000_000,) * 35
    trained = Trained(
        llm=sizes,
        encoder=(),
        connector=(),
        trains_llm=True,
        llm_dtype="float32",
        encoder_dtype="float32",
        autocast=True,
    )
    found = state_bytes(trained, ParallelPlan(ranks_in_all, 1, 3), ZeroConfig(stage=3))
    assert sum(found.values()) == pytest.approx(expected - largest, rel=1e-6)
