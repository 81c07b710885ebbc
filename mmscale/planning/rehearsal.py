"""A run at its full number of ranks, in one process: real groups and pieces of chosen ranks, tensors without memory.

What a rank would send is what it asked for. The code of a step is that of training. DeepSpeed's own collectives are not traced: what it sends is
the plan's (mmscale/planning/traffic.py), which tests compare with real ranks.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig
from mmscale.models.loading import DTYPES
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.shards import is_sharded, shard_of
from mmscale.planning.fake_ranks import Watching, fake_model, fake_rank
from mmscale.planning.parallel_plan import ParallelPlan, local_parameters
from mmscale.planning.plan import Given, Planned, Planner
from mmscale.planning.tracing import TRACED_ATTENTION, run_row
from mmscale.planning.traffic import all_gather, all_reduce
from mmscale.runs.stage import Stage

_CPU = torch.device("cpu")


@dataclass
class Sent:
    """What a rank asked a group for, and the bytes it sends for it over a ring."""

    calls: dict[str, int] = field(default_factory=dict)
    bytes: int = 0


class Collectives(Watching):
    """Notes every collective of code run inside it, by the size of its group."""

    def __init__(self) -> None:
        super().__init__()
        self.by_size: dict[int, Sent] = {}

    def note(self, func: Any, args: Any, result: Any) -> None:
        if func.namespace == "c10d":
            self._note(func._schema.name.split("::")[1].rstrip("_"), args)

    def _note(self, name: str, args: Any) -> None:
        group = next(dist.ProcessGroup.unbox(a) for a in args if isinstance(a, torch.ScriptObject))
        ranks = group.size()
        sizes = [t.numel() * t.element_size() for t in tree_leaves(args[0]) if isinstance(t, Tensor)]
        sent = self.by_size.setdefault(ranks, Sent())
        sent.calls[name] = sent.calls.get(name, 0) + 1
        sent.bytes += ring_bytes(name, sum(sizes), ranks)


def ring_bytes(name: str, size: int, ranks: int) -> int:
    """Bytes each rank sends for a collective whose first tensor argument, its result, has `size` bytes."""
    if name.startswith("allreduce"):
        return all_reduce(size, ranks)
    if name.startswith("reduce_scatter") or name == "_reduce_scatter_base":
        return all_gather(size * ranks, ranks)
    return all_gather(size, ranks)


@dataclass(frozen=True)
class RankPieces:
    """What one rank holds of the LLM, and whom it talks to."""

    rank: int
    data_group: list[int]
    tensor_group: list[int]
    elements: int
    held: dict[str, tuple[tuple[int, ...], int, int, int, bool]] = field(repr=False)
    """name -> whole shape, dimension, begin, size, sharded"""

    def shown(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "held"}


def _members(group: Any, context: ParallelContext) -> list[int]:
    return [context.rank] if group is None else dist.get_process_group_ranks(group)


def build(planner: Planner, rank: int, parallel_plan: ParallelPlan) -> RankPieces:
    """One rank's groups and pieces."""
    dtype = DTYPES[planner.run.language_model.dtype]
    with fake_rank(rank, parallel_plan) as context, FakeTensorMode():
        model = fake_model(planner.config, context, dtype, TRACED_ATTENTION["flash"])
        parameters = dict(model.causal_lm.named_parameters())
        shards = {name: shard_of(p) for name, p in parameters.items()}
        held = {
            name: (shard.shape, shard.dimension, shard.begin, shard.size, is_sharded(parameters[name]))
            for name, shard in shards.items()
        }
        elements = sum(parameter.numel() for parameter in parameters.values())
        data, tensor = _members(context.data_group, context), _members(context.tensor_group, context)
    return RankPieces(rank, data, tensor, elements, held)


def uncovered(ranks: list[RankPieces]) -> list[str]:
    """Names of parameters of which the ranks of one tensor group do not hold every element exactly once, or all of it."""
    wrong = []
    for name, (shape, dimension, *_, sharded) in ranks[0].held.items():
        ranges = sorted((r.held[name][2], r.held[name][3]) for r in ranks)
        if not sharded:
            whole = all(r.held[name][3] == (shape[0] if shape else 1) for r in ranks)
            wrong += [] if whole else [name]
            continue
        end = 0
        for begin, size in ranges:
            end = end + size if begin == end else -1
        wrong += [] if end == shape[dimension] else [name]
    return wrong


def _traced(planner: Planner, stage: Stage, planned: Planned) -> Sent:
    """The tensor group's collectives of one packed row on rank 0, forward and backward."""
    parallel_plan, work = (
        planned.parallel_plan,
        planner.work(stage, planned.parallel_plan, planned.row_tokens, planned.row_targets),
    )
    if parallel_plan.tensor == 1:
        return Sent()
    with fake_rank(0, parallel_plan) as context, FakeTensorMode(), Collectives() as seen:
        run_row(fake_model(planner.config, context, work.dtype, TRACED_ATTENTION["flash"]), work)
    return seen.by_size[parallel_plan.tensor]


def rehearse(run: RunConfig, cluster: ClusterConfig) -> dict[str, Any]:
    """Ranks, pieces and one step's collectives of every stage at the cluster's full size; the plan's bytes beside them."""
    planner = Planner(run, cluster)
    parallel_plan = planner.configured
    chosen = sorted({*range(parallel_plan.tensor), parallel_plan.ranks - 1})
    built = {rank: build(planner, rank, parallel_plan) for rank in chosen}
    return {
        "layout": str(parallel_plan),
        "ranks": [rank.shown() for rank in built.values()],
        "parameters": planner.llm,
        "elements_by_plan": sum(local_parameters(planner.config, parallel_plan.tensor)),
        "uncovered": uncovered([built[rank] for rank in range(parallel_plan.tensor)]),
        "stages": {stage.name: _stage(planner, stage, parallel_plan) for stage in planner.stages()},
    }


def _stage(planner: Planner, stage: Stage, parallel_plan: ParallelPlan) -> dict[str, Any]:
    planned = planner.stage(stage, parallel_plan, planner.examples(stage, Given()))
    traced = _traced(planner, stage, planned)
    rows = planned.rows_per_step
    return {
        "rows_per_step": rows,
        "row_tokens": planned.row_tokens,
        "tensor_collectives": {name: count * rows for name, count in traced.calls.items()},
        "tensor_bytes": {"traced": traced.bytes * rows, "plan": planned.sent_bytes["tensor"]},
        "data_bytes": {"plan": planned.sent_bytes["data"]},
        "peak_bytes": planned.memory_bytes["peak"],
        "fits": planned.fits,
    }


def show(rehearsed: dict[str, Any]) -> None:
    """Print a rehearsal for a person."""
    print(f"at full size: {rehearsed['layout']}")
    for rank in rehearsed["ranks"]:
        groups = f"tensor group {_range(rank['tensor_group'])}, data group {_range(rank['data_group'])}"
        print(f"  rank {rank['rank']}: {groups}, {rank['elements']:,} elements of the LLM")
    covered = "every element of the LLM is held once in a tensor group"
    if rehearsed["uncovered"]:
        covered = f"NOT held once in a tensor group: {', '.join(rehearsed['uncovered'][:3])}"
    equal = all(rank["elements"] == rehearsed["elements_by_plan"] for rank in rehearsed["ranks"])
    print(f"  {covered}; elements of each rank {'as' if equal else 'NOT as'} planned")
    for name, stage in rehearsed["stages"].items():
        calls = ", ".join(f"{count:,} {kind}" for kind, count in stage["tensor_collectives"].items()) or "none"
        sent = stage["tensor_bytes"]
        print(f"  {name}: a step of {stage['rows_per_step']} rows of {stage['row_tokens']:,} tokens per rank")
        print(
            f"    tensor group: {calls}; {sent['traced'] / 2**20:,.1f} MiB traced, {sent['plan'] / 2**20:,.1f} MiB planned; "
            f"data group: {stage['data_bytes']['plan'] / 2**20:,.1f} MiB planned; "
            f"peak {stage['peak_bytes'] / 2**30:.1f} GiB, {'fits' if stage['fits'] else 'does NOT fit'}"
        )


def _range(ranks: list[int]) -> str:
    """Ranks at equal distances, short."""
    if len(ranks) < 3:
        return ", ".join(map(str, ranks))
    return f"{ranks[0]}, {ranks[1]}, ... {ranks[-1]} ({len(ranks)})"
