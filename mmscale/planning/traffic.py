"""Bytes each rank sends in a step, and how long they take.

A ring all-gather or reduce-scatter of X bytes over n ranks sends (n-1)/n X from each, an all-reduce twice that
(Patarasuk & Yuan 2009). "Per row" counts micro-steps: a packed row is one.
"""

from __future__ import annotations

from dataclasses import dataclass

from mmscale.config.cluster import GpuConfig
from mmscale.planning.memory import Trained
from mmscale.planning.parallel_plan import ParallelPlan, flattened, partitioned

REUSED_ELEMENTS = 1_000_000_000
"""DeepSpeed's stage3_max_reuse_distance, its default: what is needed again sooner stays."""


@dataclass(frozen=True)
class Traffic:
    """Bytes a rank sends in one optimizer step."""

    tensor: int
    """All-reduces of activations; nothing else can be done meanwhile."""
    data: int
    """Parameters and gradients, most of it while computing."""


@dataclass(frozen=True)
class Step:
    """What a rank computes between two updates of the parameters, as far as it decides what is sent."""

    rows: int
    """Packed rows."""
    layer_input: int
    """Bytes of one layer's input of a row: T x width."""
    layers: int
    checkpointing: bool
    targets: float = 1.0
    """Share of a row's tokens that enter the head."""


def all_reduce(size: int, ranks: int) -> int:
    """Bytes that a rank sends to sum `size` bytes over ranks."""
    return 2 * all_gather(size, ranks)


def all_gather(size: int, ranks: int) -> int:
    """Bytes that a rank sends for a result of `size` bytes; a reduce-scatter sends as many."""
    return size * (ranks - 1) // ranks


def traffic(trained: Trained, parallel_plan: ParallelPlan, step: Step, reused: int = REUSED_ELEMENTS) -> Traffic:
    """What a rank sends in a step; `reused` elements are gathered under ZeRO-3 and kept for the backward pass."""
    if parallel_plan.sequence_parallel:
        # an all-gather and a reduce-scatter are half an all-reduce each; recomputed, a layer needs all but its last one
        reductions = (5.5 if step.checkpointing else 4) * step.layers + 2 + step.targets
    else:
        # forward: after attention and after the MLP; backward: before each; again where activations are recomputed,
        # which torch ends before the layer's last all-reduce; and the embedding's and the head's. The last layer reduces
        # all rows before its attention alone, else those that are read
        each = 5 if step.checkpointing else 4
        reductions = each * step.layers + 1 + step.targets - (each - 1) * (1 - step.targets)
    tensor = step.rows * int(reductions * all_reduce(step.layer_input, parallel_plan.tensor))
    return Traffic(tensor, _data(trained, parallel_plan, step.rows, reused))


def _data(trained: Trained, parallel_plan: ParallelPlan, rows: int, reused: int) -> int:
    """What DeepSpeed does, seen on real ranks (tests/planning): stages 1 and 2 all-reduce gradients, where the ZeRO
    paper (section 7) has half of it; stage 3 gathers again, for the backward pass, what it released after the forward."""
    data, width = parallel_plan.data, 2 if trained.autocast else 4
    count = sum(trained.trainable)
    if parallel_plan.stage == 0:
        return all_reduce(4 * count, data)
    if parallel_plan.stage == 3:
        encoder = trained.encoder if trained.trained_encoder else ()
        held = partitioned((*trained.llm, *trained.connector, *encoder), data) * data
        gathered = all_gather(held * width, data) + all_gather(max(0, held - reused) * width, data)
        return rows * (gathered + all_gather(partitioned(trained.trainable, data) * data * width, data))
    padded = flattened(trained.trainable, data) * data * width
    reduced = all_reduce(padded, data) * (rows if parallel_plan.stage == 2 else 1)
    return reduced + all_gather(padded, data)  # gradients reduced, new parameters gathered


def seconds(sent: Traffic, parallel_plan: ParallelPlan, gpu: GpuConfig, gpus_per_node: int) -> tuple[float, float]:
    """(tensor, data) seconds; a group that fits a node talks over its links, another one over the network."""

    def speed(reach: int) -> float:
        return 1e9 * (gpu.link_gbytes if reach <= gpus_per_node else gpu.network_gbytes)

    return sent.tensor / speed(parallel_plan.tensor), sent.data / speed(parallel_plan.ranks)
