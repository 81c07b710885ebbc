"""How a stage is spread over ranks: ZeRO partitioning and what it may put elsewhere."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mmscale.config.base import Config


class OffloadConfig(Config):
    """Where DeepSpeed keeps a part of the state that does not fit the GPU."""

    device: Literal["none", "cpu", "nvme"] = "none"
    """Where it is kept; `none` leaves it on the GPU."""
    nvme_path: str | None = None
    """Folder on a local NVMe disk."""
    pin_memory: bool = True
    """Page-locked host memory: faster copies, memory that nothing else can use."""

    @model_validator(mode="after")
    def _has_place(self) -> OffloadConfig:
        if self.device == "nvme" and not self.nvme_path:
            raise ValueError("device nvme needs nvme_path, a folder on a local NVMe disk")
        return self


class ZeroConfig(Config):
    """DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054); stage 0 replicates everything, without DeepSpeed."""

    stage: Literal[0, 1, 2, 3] = 0
    """1 partitions the optimizer, 2 the gradients too, 3 the parameters too."""
    offload_optimizer: OffloadConfig = OffloadConfig()
    """Where optimizer state is kept."""
    offload_parameters: OffloadConfig = OffloadConfig()
    """Where parameters are kept, under stage 3."""
    bucket_elements: int = Field(default=500_000_000, ge=1)
    """Gradient elements reduced at once (DeepSpeed's default)."""
    persistence_threshold: int = Field(default=100_000, ge=0)
    """Parameters of fewer elements stay whole on every rank under stage 3 (DeepSpeed's default)."""
    hierarchical_partition_size: int = Field(default=1, ge=1)
    """ZeRO++ hpZ (arXiv 2306.10209): ranks, usually those of a node, that hold a secondary copy of the parameters."""
    quantized_weights: bool = False
    """ZeRO++ qwZ: parameters travel as int8."""
    quantized_gradients: bool = False
    """ZeRO++ qgZ: gradients travel as int4."""
    extra: dict[str, Any] = {}
    """Laid over the generated DeepSpeed JSON, for keys that are not modelled here."""

    @property
    def plus(self) -> bool:
        """Whether anything of ZeRO++ is asked for."""
        return self.hierarchical_partition_size > 1 or self.quantized_weights or self.quantized_gradients

    @model_validator(mode="after")
    def _consistent(self) -> ZeroConfig:
        if self.offload_parameters.device != "none" and self.stage != 3:
            raise ValueError("offload_parameters needs stage 3, the only one that partitions parameters")
        if self.offload_optimizer.device != "none" and self.stage == 0:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if self.offload_optimizer.device == "nvme" and self.stage != 3:
            raise ValueError("offload_optimizer to nvme needs stage 3")
        if self.plus and self.stage != 3:
            raise ValueError("hierarchical_partition_size and quantized_* (ZeRO++) need stage 3")
        return self


class InterruptionConfig(Config):
    """When training stops by itself, having saved; the same command goes on from there."""

    wall_clock_minutes: float | None = Field(default=None, gt=0)
    """Time that this process may take; under Slurm the job's own end counts as well."""
    minutes_before_job_end: float = Field(default=5, ge=0)
    """How early to stop before Slurm does: longer than a step and a save."""
    hang_minutes: float = Field(default=60, gt=0)
    """A step, evaluation or save that takes longer makes every rank write its stacks and end."""
    requeue: bool = True
    """Under Slurm, put the job back into the queue."""


class ParallelConfig(Config):
    """The spread of one run; the number of ranks comes from the launcher."""

    tensor_parallel_size: int = Field(default=1, ge=1)
    """Ranks that share each layer of the LLM (Shoeybi et al. 2019, arXiv 1909.08053), neighbours within a node; the
    others share the examples."""
    sequence_parallel: bool = False
    """Ranks that share layers also share the tokens between them (Korthikanti et al. 2022, arXiv 2205.05198): the same
    bytes travel, and norms and kept layer inputs take a part of the memory."""
    zero: ZeroConfig = ZeroConfig()
    """What is partitioned over ranks that share the examples."""
    interruption: InterruptionConfig = InterruptionConfig()
    """When to stop and save."""
    timeout_minutes: float = Field(default=30, gt=0)
    """A collective that takes longer ends the rank: longer than a first compilation, shorter than a lost night."""

    @model_validator(mode="after")
    def _consistent(self) -> ParallelConfig:
        if self.sequence_parallel and self.tensor_parallel_size == 1:
            raise ValueError("sequence_parallel needs tensor_parallel_size of at least 2")
        if self.zero.plus and self.tensor_parallel_size > 1:
            raise ValueError(
                "zero.hierarchical_partition_size and zero.quantized_* (ZeRO++) are not shown right together with "
                "tensor_parallel_size above 1: leave one of them out"
            )
        return self
