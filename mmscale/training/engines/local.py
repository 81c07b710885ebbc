"""Parameters, gradients and optimizer whole on every rank; gradients are summed over ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mmscale.config.training import StageConfig
from mmscale.data.packing import PackedRow
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.shards import Shard, is_sharded, shard_of
from mmscale.training.engines.base import (
    MOMENTS,
    PARAMETER,
    Fragment,
    NonFiniteLoss,
    State,
    StepResult,
    make_optimizer,
    set_learning_rate,
    trainable,
)
from mmscale.training.objective import Objective


class LocalEngine:
    """One process, or several that each hold everything (plain data parallelism)."""

    def __init__(self, objective: Objective, config: StageConfig, context: ParallelContext) -> None:
        self.objective, self.config, self.context = objective, config, context
        self._named = trainable(objective)
        self.optimizer = make_optimizer(objective, config.optimizer, fused=True)

    def _precision(self) -> Any:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.context.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def train_step(self, rows: Sequence[PackedRow], learning_rate: float) -> StepResult:
        target_tokens = int(self.context.sum([sum(row.target_tokens for row in rows)])[0])
        total = torch.zeros((), dtype=torch.float64, device=self.context.device)
        self.optimizer.zero_grad(set_to_none=True)
        for row in rows:
            with self._precision():
                loss = self.objective.loss_sum(row.to(self.context.device)) / target_tokens
            loss.backward()
            total += loss.detach()
        self._sum_gradients()
        norms = self._clip_gradients(self.config.optimizer.max_gradient_norm)
        own, norm = torch.stack([total, norms.double()]).tolist()  # the step's only wait for the device
        mean = self.context.sum([own])[0]
        if not torch.isfinite(torch.tensor([mean, norm])).all():
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLoss(f"loss {mean}, gradient norm {norm}")
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        return StepResult(mean, norm, target_tokens)

    def _sum_gradients(self) -> None:
        if self.context.data_size == 1:
            return
        waiting = []
        for parameter in self._named.values():
            if parameter.grad is None:  # this rank's rows did not reach it; another's may have
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(dist.all_reduce(parameter.grad, group=self.context.data_group, async_op=True))
        for work in waiting:
            work.wait()

    def _clip_gradients(self, limit: float) -> Tensor:
        """The norm (scalar) of the whole gradient, before it was scaled down to `limit`."""
        gradients = [(p.grad, is_sharded(p)) for p in self._named.values() if p.grad is not None]
        norm = get_total_norm([gradient for gradient, _ in gradients])
        if self.context.tensor_size > 1:
            squares = [
                get_total_norm([gradient for gradient, sharded in gradients if sharded == chosen]).double() ** 2
                for chosen in (True, False)
            ]
            dist.all_reduce(squares[0], group=self.context.tensor_group)
            norm = (squares[0] + squares[1]).sqrt().float()
        clip_grads_with_norm_(self._named.values(), limit, norm)
        return norm

    @torch.no_grad()
    def loss(self, rows: Sequence[PackedRow]) -> tuple[float, int]:
        total = torch.zeros((), dtype=torch.float64, device=self.context.device)
        for row in rows:
            with self._precision():
                total += self.objective.loss_sum(row.to(self.context.device))
        summed = self.context.sum([float(total), sum(row.target_tokens for row in rows)])
        return summed[0], int(summed[1])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shard_of(parameter).shape for name, parameter in self._named.items()}

    def fragments(self) -> Iterator[Fragment]:
        if self.context.data_rank != 0:
            return
        for name, parameter in self._named.items():
            if self.context.tensor_rank != 0 and not is_sharded(parameter):
                continue
            shard = shard_of(parameter)
            moments = {kind: self.optimizer.state.get(parameter, {}).get(kind) for kind in MOMENTS}
            for kind, value in {PARAMETER: parameter.detach(), **moments}.items():
                if value is not None:
                    yield Fragment(kind, name, shard, 0, value.flatten()[: shard.elements])

    @torch.no_grad()
    def restore(self, state: State, steps: int) -> None:
        for name, parameter in self._named.items():
            _fill(parameter, state, PARAMETER, name)
            moments = {kind: torch.zeros_like(parameter) for kind in MOMENTS}
            try:
                for kind, value in moments.items():
                    _fill(value, state, kind, name, shard_of(parameter))
            except KeyError:  # saved before the first optimizer step
                continue
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **moments,
            }


def _fill(tensor: Tensor, state: State, kind: str, name: str, shard: Shard | None = None) -> None:
    """Read this rank's piece into a tensor; padding at its end stays as it is."""
    held = shard or shard_of(tensor)
    tensor.view(-1)[: held.elements].copy_(state.read(kind, name, held, 0, held.elements))
