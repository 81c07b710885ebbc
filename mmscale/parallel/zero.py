"""The DeepSpeed configuration of a stage, generated from ours."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from mmscale.config.base import deep_merge
from mmscale.config.parallel import OffloadConfig, ZeroConfig
from mmscale.config.training import StageConfig
from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.extensions import load_operations
from mmscale.parallel.shards import is_sharded


def deepspeed_json(zero: ZeroConfig, stage: StageConfig, ranks: int) -> dict[str, Any]:
    """What `deepspeed.initialize` is given; `zero.extra` is laid over it key by key.

    Accumulation is ours: a step's rows differ in number, so DeepSpeed is told one micro-batch a step and where the
    step ends. Batch sizes count rows and serve DeepSpeed's own bookkeeping only.
    """
    partition: dict[str, Any] = {
        "stage": zero.stage,
        "reduce_bucket_size": zero.bucket_elements,
        "allgather_bucket_size": zero.bucket_elements,
        "overlap_comm": True,
        "contiguous_gradients": True,
    }
    if zero.offload_optimizer.device != "none":
        partition["offload_optimizer"] = _offload(zero.offload_optimizer)
    if zero.stage == 3:
        partition["stage3_param_persistence_threshold"] = zero.persistence_threshold
        if zero.offload_parameters.device != "none":
            partition["offload_param"] = _offload(zero.offload_parameters)
        if zero.hierarchical_partition_size > 1:
            partition["zero_hpz_partition_size"] = zero.hierarchical_partition_size
        partition["zero_quantized_weights"] = zero.quantized_weights
        partition["zero_quantized_gradients"] = zero.quantized_gradients
    values: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "train_batch_size": ranks,
        "gradient_clipping": stage.optimizer.max_gradient_norm,
        "zero_optimization": partition,
        "bf16": {"enabled": stage.precision == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }
    return deep_merge(values, zero.extra)


def _offload(config: OffloadConfig) -> dict[str, Any]:
    values: dict[str, Any] = {"device": config.device, "pin_memory": config.pin_memory}
    if config.device == "nvme":
        values["nvme_path"] = config.nvme_path
    return values


class Partition:
    """Cuts parameters over the data-parallel ranks one by one, as they come from a file: a rank keeps its piece of each.

    For models that tensor parallelism has cut already; transformers has its own for whole ones.
    """

    def __init__(self, zero: ZeroConfig, context: ParallelContext, config: dict[str, Any]) -> None:
        """`config` is DeepSpeed's for loading."""
        self._deepspeed, self._context, self._config = start_deepspeed(zero, context), context, config
        self.dtype = torch.bfloat16 if config["bf16"]["enabled"] else None
        """DeepSpeed computes in; None is the model's own."""
        self._first: Any = None

    def __call__(self, parameter: nn.Parameter) -> None:
        if self._first is None:  # makes what DeepSpeed needs, and knows how to cut others
            self._deepspeed.zero.Init(
                module=nn.ParameterList([parameter]),
                data_parallel_group=self._context.data_group,
                mpu=_ModelParallelUnit(self._context),
                config_dict_or_path=self._config,
            )
            self._first = parameter
        else:
            self._first.convert_to_zero_parameters(param_list=[parameter])


@contextlib.contextmanager
def partitioned_loading(
    zero: ZeroConfig, stage: StageConfig, context: ParallelContext, masters: bool = False
) -> Iterator[Partition | None]:
    """Under stage 3, models that are loaded inside go tensor by tensor into each rank's pieces: those that transformers
    loads by themselves, those cut by tensor parallelism through what is given.

    With `masters` the pieces hold float32 values until the engine takes them for its master weights, whatever it computes
    in; where parameters are offloaded DeepSpeed rounds them first.
    """
    if zero.stage != 3:
        yield None
        return
    start_deepspeed(zero, context)
    if zero.hierarchical_partition_size > 1:
        from deepspeed.utils import groups

        groups._ZERO_PARAM_INTRA_PARALLEL_GROUP = None  # an earlier stage's; DeepSpeed makes its own, once a process
    config = deepspeed_json(zero, stage, context.data_size)
    if masters and not rounds_masters(zero, stage):
        config["bf16"] = {"enabled": False}
    if context.tensor_size > 1:
        yield Partition(zero, context, config)
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    alive = HfDeepSpeedConfig(config)
    try:
        yield None
    finally:
        del alive
        unset_hf_deepspeed_config()


def rounds_masters(zero: ZeroConfig, stage: StageConfig) -> bool:
    """Whether float32 weights are rounded to bfloat16 before DeepSpeed makes its float32 master weights of them."""
    return stage.precision == "bfloat16" and zero.stage == 3 and zero.offload_parameters.device != "none"


def start_deepspeed(zero: ZeroConfig, context: ParallelContext) -> Any:
    """The deepspeed module, talking over the process group that is already there."""
    if context.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # it chooses once, at import
    import deepspeed  # late: its import takes seconds

    wanted = ["ShareMemCommBuilder"] if context.device.type == "cpu" else []
    if "nvme" in (zero.offload_optimizer.device, zero.offload_parameters.device):
        wanted.append("AsyncIOBuilder")
    if "AsyncIOBuilder" in load_operations(deepspeed, wanted):
        raise UserError(
            "parallel.zero.offload_*.device=nvme needs libaio, which DeepSpeed does not find: install libaio-dev "
            "(Debian) or libaio-devel, or use device cpu"
        )
    deepspeed.init_distributed(dist_init_required=None, auto_mpi_discovery=False, verbose=False)
    return deepspeed


class _ModelParallelUnit:
    """The groups of a layout under the names that DeepSpeed asks for."""

    def __init__(self, context: ParallelContext) -> None:
        self._context = context

    def get_data_parallel_rank(self) -> int:
        return self._context.data_rank

    def get_data_parallel_world_size(self) -> int:
        return self._context.data_size

    def get_data_parallel_group(self) -> Any:
        return self._context.data_group

    def get_tensor_model_parallel_rank(self) -> int:
        return self._context.tensor_rank

    def get_tensor_model_parallel_world_size(self) -> int:
        return self._context.tensor_size

    def get_tensor_model_parallel_group(self) -> Any:
        return self._context.tensor_group

    get_model_parallel_rank = get_tensor_model_parallel_rank
    get_model_parallel_world_size = get_tensor_model_parallel_world_size
    get_model_parallel_group = get_tensor_model_parallel_group

    def get_pipeline_model_parallel_world_size(self) -> int:
        return 1


def model_parallel_unit(module: nn.Module, context: ParallelContext) -> Any:
    """What tells DeepSpeed that ranks share layers; None when they do not.

    Every parameter says whether it is sharded: without that DeepSpeed counts some twice in the gradient's norm.
    """
    if context.tensor_size == 1:
        return None
    for parameter in module.parameters():
        parameter.tensor_model_parallel = is_sharded(parameter)  # type: ignore[attr-defined]
    return _ModelParallelUnit(context)
