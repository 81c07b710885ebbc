"""The generated DeepSpeed JSON, and what the configuration refuses."""

from __future__ import annotations

import pytest
import torch

from mmscale.config.parallel import ZeroConfig
from mmscale.config.training import OptimizerConfig, StageConfig
from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.zero import deepspeed_json, start_deepspeed

STAGE = StageConfig(steps=1, precision="bfloat16", optimizer=OptimizerConfig(max_gradient_norm=0.5))


def test_stage_3_with_everything_elsewhere():
    zero = ZeroConfig.model_validate(
        {
            "stage": 3,
            "offload_optimizer": {"device": "nvme", "nvme_path": "/local"},
            "offload_parameters": {"device": "cpu", "pin_memory": False},
            "hierarchical_partition_size": 8,
            "quantized_weights": True,
        }
    )
    found = deepspeed_json(zero, STAGE, ranks=16)
    partition = found["zero_optimization"]
    assert found["gradient_clipping"] == 0.5 and found["bf16"] == {"enabled": True}
    assert (
        found["train_batch_size"] == 16 * found["train_micro_batch_size_per_gpu"] * found["gradient_accumulation_steps"]
    )
    assert partition["offload_optimizer"] == {"device": "nvme", "pin_memory": True, "nvme_path": "/local"}
    assert partition["offload_param"] == {"device": "cpu", "pin_memory": False}
    assert partition["zero_hpz_partition_size"] == 8 and partition["zero_quantized_weights"] is True


def test_extra_keys_are_laid_over_key_by_key():
    extra = {
        "zero_optimization": {"round_robin_gradients": True, "overlap_comm": False},
        "tensorboard": {"enabled": True},
    }
    found = deepspeed_json(ZeroConfig(stage=2, extra=extra), STAGE, ranks=2)
    partition = found["zero_optimization"]
    assert partition["round_robin_gradients"] is True and partition["overlap_comm"] is False
    assert partition["stage"] == 2 and found["tensorboard"] == {"enabled": True}


def test_deepspeed_accepts_what_is_generated():
    """DeepSpeed's own parser, which refuses unknown keys of zero_optimization."""
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    for stage in (1, 2, 3):
        DeepSpeedZeroConfig(**deepspeed_json(ZeroConfig(stage=stage), STAGE, ranks=4)["zero_optimization"])


@pytest.mark.parametrize(
    ("zero", "complaint"),
    [
        ({"stage": 2, "offload_parameters": {"device": "cpu"}}, "offload_parameters needs stage 3"),
        ({"stage": 0, "offload_optimizer": {"device": "cpu"}}, "offload_optimizer needs stage 1, 2 or 3"),
        ({"stage": 3, "offload_optimizer": {"device": "nvme"}}, "needs nvme_path"),
        ({"stage": 1, "quantized_weights": True}, "need stage 3"),
        ({"stage": 4}, "parallel.zero.stage"),
    ],
)
def test_what_cannot_be_is_refused_with_its_key(zero, complaint):
    from mmscale.config.run import load_run

    with pytest.raises(UserError, match=complaint):
        load_run("configs/quickstart.yaml", [f"parallel.zero={zero}"])


def test_offload_to_nvme_without_libaio_is_one_sentence(monkeypatch):
    deepspeed = pytest.importorskip("deepspeed", reason="extra deepspeed")
    monkeypatch.setitem(deepspeed.ops.__compatible_ops__, "async_io", False)
    away = {"device": "nvme", "nvme_path": "/local"}
    with pytest.raises(UserError, match="needs libaio, which DeepSpeed does not find: install libaio-dev"):
        start_deepspeed(ZeroConfig(stage=3, offload_optimizer=away), ParallelContext(device=torch.device("cpu")))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["parallel.sequence_parallel=true"], "sequence_parallel needs tensor_parallel_size of at least 2"),
        (
            ["parallel.tensor_parallel_size=2", "parallel.zero={stage: 3, hierarchical_partition_size: 8}"],
            "not shown right together with tensor_parallel_size above 1",
        ),
    ],
)
def test_combinations_that_cannot_be_are_refused(settings, complaint):
    from mmscale.config.run import load_run

    with pytest.raises(UserError, match=complaint):
        load_run("configs/quickstart.yaml", settings)
