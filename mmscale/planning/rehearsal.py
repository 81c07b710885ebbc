"""A run at its full number of ranks, in one process: real groups and pieces of chosen ranks, tensors without memory.

torch's fake process group answers every collective at once; what a rank would send is what it asked for. The model,
its cutting and the code of a step are those of training. DeepSpeed's own collectives are not traced: what it sends is
the plan's (mmscale/planning/traffic.py), which tests compare with real ranks.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import RunConfig
from mmscale.data.segments import SpecialTokens
from mmscale.models.assembly import make_trainable
from mmscale.models.attention import PackedLayout
from mmscale.models.language_model import LanguageModel
from mmscale.models.loading import DTYPES
from mmscale.parallel.layout import Layout, grouped
from mmscale.parallel.pieces import is_sharded, piece_of
from mmscale.parallel.tensor import shard
from mmscale.parallel.world import World
from mmscale.planning.plan import Given, Planned, Planner
from mmscale.planning.spread import Spread
from mmscale.planning.tracing import TRACED_ATTENTION
from mmscale.planning.traffic import all_gather, all_reduce

_CPU = torch.device("cpu")


@dataclass
class Sent:
    """What a rank asked a group for, and the bytes it sends for it over a ring."""

    calls: dict[str, int] = field(default_factory=dict)
    bytes: int = 0


class Collectives(TorchDispatchMode):
    """Notes every collective of code run inside it, by the size of its group."""

    def __init__(self) -> None:
        super().__init__()
        self.by_size: dict[int, Sent] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return 0  # a model asks whether some mask is needed; ours never are
        if func.namespace == "c10d":
            self._note(func._schema.name.split("::")[1].rstrip("_"), args)
        return func(*args, **(kwargs or {}))

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


@contextlib.contextmanager
def fake_rank(rank: int, spread: Spread) -> Iterator[Layout]:
    """The layout of one rank of a world that does not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend "fake"

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=spread.ranks)
    try:
        world = World(rank, spread.ranks, launcher="fake")
        yield grouped(world, _CPU, datetime.timedelta(minutes=1), spread.tensor)
    finally:
        dist.destroy_process_group()


def _cut_model(planner: Planner, layout: Layout, dtype: torch.dtype) -> LanguageModel:
    """The LLM as a rank holds it; call it inside a FakeTensorMode."""
    attention = TRACED_ATTENTION["flash" if planner.cluster.gpus_per_node else "grids"]
    causal_lm = AutoModelForCausalLM.from_config(planner.config, dtype=dtype, attn_implementation=attention)
    cut = None
    if layout.tensor_size > 1:
        cut = shard(causal_lm, layout, dtype, lambda _, piece: torch.empty(piece.local_shape, dtype=dtype))
    return LanguageModel(causal_lm, None, SpecialTokens(0, 0), cut)


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


def _members(group: Any, layout: Layout) -> list[int]:
    return [layout.rank] if group is None else dist.get_process_group_ranks(group)


def build(planner: Planner, rank: int, spread: Spread) -> RankPieces:
    """One rank's groups and pieces."""
    dtype = DTYPES[planner.run.language_model.dtype]
    with fake_rank(rank, spread) as layout, FakeTensorMode():
        parameters = dict(_cut_model(planner, layout, dtype).causal_lm.named_parameters())
        pieces = {name: piece_of(p) for name, p in parameters.items()}
        held = {
            name: (piece.shape, piece.dimension, piece.begin, piece.size, is_sharded(parameters[name]))
            for name, piece in pieces.items()
        }
        elements = sum(parameter.numel() for parameter in parameters.values())
        data, tensor = _members(layout.data_group, layout), _members(layout.tensor_group, layout)
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


def _traced(planner: Planner, planned: Planned, trains_llm: bool, checkpointing: bool) -> Sent:
    """The tensor group's collectives of one packed row on rank 0, forward and backward."""
    dtype = DTYPES[planner.run.language_model.dtype]
    with fake_rank(0, planned.spread) as layout, FakeTensorMode(), Collectives() as seen:
        model = _cut_model(planner, layout, dtype)
        model.requires_grad_(False)
        make_trainable(model, checkpointing, frozen=not trains_llm)
        ids, positions = (torch.zeros(planned.row_tokens, dtype=torch.int64) for _ in range(2))
        inputs = model.embed(ids)
        if not trains_llm:
            inputs = inputs.detach().requires_grad_()
        hidden = model.hidden(inputs, positions, PackedLayout((planned.row_tokens,), _CPU))
        targets = torch.zeros(1, dtype=torch.int64)
        model.cross_entropy_sum(hidden.index_select(0, targets), targets).backward()
    return seen.by_size.get(planned.spread.tensor, Sent()) if planned.spread.tensor > 1 else Sent()


def rehearse(run: RunConfig, cluster: ClusterConfig) -> dict[str, Any]:
    """Ranks, pieces and one step's collectives of every stage at the cluster's full size; the plan's bytes beside them."""
    planner = Planner(run, cluster)
    spread = planner.configured
    group = [build(planner, rank, spread) for rank in range(spread.tensor)]
    last = build(planner, spread.ranks - 1, spread) if spread.ranks > spread.tensor else None
    stages = {}
    for place in planner.places():
        planned = planner.stage(place, spread, planner.examples(place, Given()))
        trains_llm = place.spec.trains != "mapping"
        traced = _traced(planner, planned, trains_llm, place.config.gradient_checkpointing)
        stages[place.name] = {
            "rows_per_step": planned.rows_per_step,
            "row_tokens": planned.row_tokens,
            "tensor_collectives": {name: n * planned.rows_per_step for name, n in traced.calls.items()},
            "tensor_bytes": {"traced": traced.bytes * planned.rows_per_step, "plan": planned.sent_bytes["tensor"]},
            "data_bytes": {"plan": planned.sent_bytes["data"]},
            "memory_bytes": planned.memory_bytes,
            "fits": planned.fits,
        }
    expected = planner.trained(planner.places()[0], spread).llm
    return {
        "layout": str(spread),
        "ranks": [rank.shown() for rank in [*group, *([last] if last else [])]],
        "parameters": planner.llm,
        "elements_by_plan": sum(expected),
        "uncovered": uncovered(group),
        "stages": stages,
    }
