"""Engines: what takes an optimizer step, whole on every rank or partitioned by ZeRO."""

from __future__ import annotations

from mmscale.config.parallel import ZeroConfig
from mmscale.config.training import StageConfig
from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.training.engines.base import Engine
from mmscale.training.engines.local import LocalEngine
from mmscale.training.objective import Objective


def make_engine(objective: Objective, config: StageConfig, zero: ZeroConfig, context: ParallelContext) -> Engine:
    """The engine a configuration asks for."""
    if zero.stage == 0:
        if context.tensor_size > 1 and context.device.type == "cpu" and config.precision == "bfloat16":
            raise UserError(
                "precision=bfloat16 with parallel.tensor_parallel_size on CPUs needs DeepSpeed, since torch cannot "
                "autocast these layers there: set parallel.zero.stage=1, or precision=float32"
            )
        return LocalEngine(objective, config, context)
    from mmscale.training.engines.zero import ZeroEngine  # needs the extra `deepspeed`

    return ZeroEngine(objective, config, zero, context)
