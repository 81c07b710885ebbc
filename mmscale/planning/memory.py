"""Bytes of one GPU while a stage trains, component by component.

Parameters are counted on the meta device, activations traced there (mmscale/planning/tracing.py); what the engines
hold for each parameter is written down here and tested against real ranks. B is bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmscale.config.parallel import ZeroConfig
from mmscale.models.loading import DTYPES
from mmscale.planning.parallel_plan import ParallelPlan, flattened, partitioned

CONTEXT_BYTES = 2**30
"""CUDA context, NCCL channels and cuBLAS workspaces: an allowance, not a measurement."""
MAX_LIVE_ELEMENTS = 1_000_000_000 + 50_000_000
"""DeepSpeed's stage3_max_live_parameters and stage3_prefetch_bucket_size, its defaults."""
FLOAT32 = 4
TIGHT = 0.92
"""Share of a GPU's memory beyond which a plan fits only just: fragments of the allocator and what is not counted take some."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a stage trains and computes with; element counts are a rank's, before ZeRO cuts them."""

    llm: tuple[int, ...]
    """Elements of each LLM parameter on a rank of the tensor group."""
    encoder: tuple[int, ...]
    """Elements of each parameter of the encoder."""
    connector: tuple[int, ...]
    """Elements of each parameter of the connector."""
    trains_llm: bool
    llm_dtype: str
    encoder_dtype: str
    autocast: bool
    """precision=bfloat16."""
    llm_bytes: int | None = None
    """Bytes of the LLM's weights, where some are quantised."""
    trains_connector: bool = True
    """Where there is one."""
    trained_encoder: tuple[int, ...] = ()
    """Elements of each parameter of the encoder that is trained."""
    encoder_cached: bool = False
    """Its states come from disk, and the encoder is not in memory while the stage trains."""

    @property
    def trainable(self) -> tuple[int, ...]:
        joins = self.connector if self.trains_connector else ()
        return (*(self.llm if self.trains_llm else ()), *joins, *self.trained_encoder)


def state_bytes(trained: Trained, parallel_plan: ParallelPlan, zero: ZeroConfig) -> dict[str, int]:
    """Weights, gradients and optimizer state of a rank."""
    return _replicated(trained) if parallel_plan.stage == 0 else _partitioned(trained, parallel_plan, zero)


def _size(dtype: str) -> int:
    return DTYPES[dtype].itemsize


def _encoder_bytes(trained: Trained) -> int:
    return 0 if trained.encoder_cached else sum(trained.encoder) * _size(trained.encoder_dtype)


def _replicated(trained: Trained) -> dict[str, int]:
    """The local engine: weights, gradients and AdamW's two moments in the parameter's own dtype."""
    width = _size(trained.llm_dtype) if trained.trains_llm else FLOAT32
    count = sum(trained.trainable)
    bytes_of = {
        "llm_weights": sum(trained.llm) * _size(trained.llm_dtype) if trained.llm_bytes is None else trained.llm_bytes,
        "encoder_weights": _encoder_bytes(trained),
        "connector_weights": sum(trained.connector) * FLOAT32,
        "gradients": count * width,
        "optimizer": 2 * count * width,
    }
    if trained.autocast and ((trained.trains_llm and trained.llm_dtype == "float32") or trained.trained_encoder):
        bytes_of["autocast_weights"] = 2 * count  # the bfloat16 copies that torch.autocast keeps during a forward pass
    return bytes_of


def _partitioned(trained: Trained, parallel_plan: ParallelPlan, zero: ZeroConfig) -> dict[str, int]:
    """DeepSpeed: weights in the computing dtype; float32 master weights and two moments, 12 B, over the data ranks."""
    data, stage = parallel_plan.data, parallel_plan.stage
    width = 2 if trained.autocast else _size(trained.llm_dtype)
    connector_width = 2 if trained.autocast else FLOAT32
    encoder_width = 2 if trained.autocast else _size(trained.encoder_dtype)
    count = sum(trained.trainable)
    owned = partitioned(trained.trainable, data) if stage == 3 else flattened(trained.trainable, data)

    def weights(sizes: Sequence[int]) -> int:
        if stage < 3:
            return sum(sizes)
        # small parameters are gathered once and kept beside their part
        return partitioned(sizes, data) + sum(size for size in sizes if size < zero.persistence_threshold)

    bytes_of = {
        "llm_weights": weights(trained.llm) * width,
        # a frozen one is kept out of DeepSpeed
        "encoder_weights": weights(trained.encoder) * encoder_width
        if trained.trained_encoder
        else _encoder_bytes(trained),
        "connector_weights": weights(trained.connector) * connector_width,
        # stage 1 accumulates all gradients in float32, stages 2 and 3 the part they own
        "gradients": FLOAT32 * (count if stage == 1 else owned),
        "optimizer": 3 * FLOAT32 * owned,
    }
    if zero.offload_optimizer.device != "none":
        bytes_of["gradients"], bytes_of["optimizer"] = (0 if stage > 1 else bytes_of["gradients"]), 0
    if zero.offload_parameters.device != "none":
        bytes_of["llm_weights"] = 0
    return bytes_of


def transient_bytes(trained: Trained, parallel_plan: ParallelPlan, zero: ZeroConfig) -> dict[str, int]:
    """Gathered layers and communication buffers of DeepSpeed, at most."""
    if parallel_plan.stage == 0:
        return {}
    width = 2 if trained.autocast else _size(trained.llm_dtype)
    count = sum(trained.trainable)
    bytes_of = {"communication_buffers": 2 * min(zero.bucket_elements, count) * width}  # two, since they overlap
    if parallel_plan.stage == 3:
        gathered = (*trained.llm, *(trained.encoder if trained.trained_encoder else ()))
        bytes_of["gathered_layers"] = min(MAX_LIVE_ELEMENTS, sum(gathered)) * width
    return bytes_of


def optimizer_step_bytes(trained: Trained, parallel_plan: ParallelPlan, zero: ZeroConfig) -> int:
    """What torch's AdamW makes while it steps: a root of the second moments under DeepSpeed, nothing where it is fused."""
    if parallel_plan.stage == 0 or zero.offload_optimizer.device != "none":
        return 0
    return FLOAT32 * (partitioned if parallel_plan.stage == 3 else flattened)(trained.trainable, parallel_plan.data)


def loading_bytes(trained: Trained, parallel_plan: ParallelPlan) -> int:
    """While the LLM is read: a rank's weights in their own dtype; under stage 3 its pieces, one whole tensor and its copy."""
    if trained.llm_bytes is not None:
        return trained.llm_bytes + _encoder_bytes(trained)
    if parallel_plan.stage < 3:
        return sum(trained.llm) * _size(trained.llm_dtype) + _encoder_bytes(trained)
    width = 2 if trained.autocast else _size(trained.llm_dtype)
    return (partitioned(trained.llm, parallel_plan.data) + 2 * max(trained.llm)) * width + _encoder_bytes(trained)


def saving_bytes(trained: Trained) -> int:
    """Beyond weights and optimizer state while they are written: one parameter's float32 values."""
    return FLOAT32 * max(trained.trainable)
