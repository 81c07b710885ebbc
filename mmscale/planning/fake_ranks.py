"""Ranks that do not exist: their groups answer every collective at once (torch's fake process group), their tensors have
no memory (FakeTensorMode). The model and its cutting are those of training."""

from __future__ import annotations

import abc
import contextlib
import datetime
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from mmscale.data.segments import SpecialTokens
from mmscale.errors import UserError
from mmscale.models.language_model import LanguageModel
from mmscale.parallel.context import ParallelContext, grouped
from mmscale.parallel.tensor import shard_model
from mmscale.parallel.world import World
from mmscale.planning.parallel_plan import ParallelPlan

DEVICE = torch.device("cpu")


@contextlib.contextmanager
def fake_rank(rank: int, parallel_plan: ParallelPlan) -> Iterator[ParallelContext]:
    """The layout of one rank of a world that does not exist."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend "fake"

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=parallel_plan.ranks)
    try:
        world = World(rank=rank, size=parallel_plan.ranks, launcher="fake")
        context = grouped(world, DEVICE, datetime.timedelta(minutes=1), parallel_plan.tensor)
        yield replace(context, sequence_parallel=parallel_plan.sequence_parallel)
    finally:
        dist.destroy_process_group()


def fake_model(model_config: Any, context: ParallelContext, dtype: torch.dtype, attention: str) -> LanguageModel:
    """The LLM as a rank holds it, with one of transformers' attentions; call it inside a FakeTensorMode.

    Raises UserError where a model is to be cut and megatron-core is not installed.
    """
    causal_lm = AutoModelForCausalLM.from_config(model_config, dtype=dtype, attn_implementation=attention)
    tensor_parallel = None
    if context.tensor_size > 1:
        try:
            tensor_parallel = shard_model(
                causal_lm, context, dtype, lambda _, shard: torch.empty(shard.local_shape, dtype=dtype)
            )
        except ModuleNotFoundError as error:
            raise UserError(
                f"a plan of tensor parallelism goes through its real layers, which need {error.name}: "
                f"pip install 'mmscale[tensor-parallel]'"
            ) from error
    return LanguageModel(causal_lm, None, SpecialTokens(0, 0), tensor_parallel)


class Watching(TorchDispatchMode):
    """A dispatch mode that may look at a fake model at work."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return 0  # a model asks whether some mask is needed; ours never are
        result = func(*args, **(kwargs or {}))
        self.note(func, args, result)
        return result

    @abc.abstractmethod
    def note(self, func: Any, args: Any, result: Any) -> None:
        """An operation that ran."""
