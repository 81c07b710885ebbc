"""Parameters, gradients and optimizer whole on every rank; gradients are summed over ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmscale.config.training import StageConfig
from mmscale.data.packing import PackedRow
from mmscale.parallel.layout import Layout
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

    def __init__(self, objective: Objective, config: StageConfig, layout: Layout) -> None:
        self.objective, self.config, self.layout = objective, config, layout
        self._named = trainable(objective)
        self.optimizer = make_optimizer(objective, config.optimizer, fused=True)

    def _precision(self) -> Any:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.layout.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def train_step(self, rows: Sequence[PackedRow], learning_rate: float) -> StepResult:
        target_tokens = int(self.layout.sum([sum(row.target_tokens for row in rows)])[0])
        total = torch.zeros((), dtype=torch.float64, device=self.layout.device)  # read once, after the last row
        self.optimizer.zero_grad(set_to_none=True)
        for row in rows:
            with self._precision():
                loss = self.objective.loss_sum(row.to(self.layout.device)) / target_tokens
            loss.backward()
            total += loss.detach()
        self._sum_gradients()
        mean = self.layout.sum([float(total)])[0]
        norm = float(torch.nn.utils.clip_grad_norm_(self._named.values(), self.config.optimizer.max_gradient_norm))
        if not torch.isfinite(torch.tensor([mean, norm])).all():
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLoss(f"loss {mean}, gradient norm {norm}")
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        return StepResult(mean, norm, target_tokens)

    def _sum_gradients(self) -> None:
        if self.layout.data_group is None:
            return
        waiting = []
        for parameter in self._named.values():
            if parameter.grad is None:  # this rank's rows did not reach it; another's may have
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(dist.all_reduce(parameter.grad, group=self.layout.data_group, async_op=True))
        for work in waiting:
            work.wait()

    @torch.no_grad()
    def loss(self, rows: Sequence[PackedRow]) -> tuple[float, int]:
        total, tokens = 0.0, 0
        for row in rows:
            with self._precision():
                total += float(self.objective.loss_sum(row.to(self.layout.device)))
            tokens += row.target_tokens
        summed = self.layout.sum([total, tokens])
        return summed[0], int(summed[1])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(parameter.shape) for name, parameter in self._named.items()}

    def fragments(self) -> Iterator[Fragment]:
        if self.layout.data_rank != 0:
            return
        for name, parameter in self._named.items():
            shape = tuple(parameter.shape)
            yield Fragment(PARAMETER, name, shape, 0, parameter.detach().flatten())
            for kind in MOMENTS:
                value = self.optimizer.state.get(parameter, {}).get(kind)
                if value is not None:
                    yield Fragment(kind, name, shape, 0, value.flatten())

    @torch.no_grad()
    def restore(self, state: State, steps: int) -> None:
        for name, parameter in self._named.items():

            def read(kind: str, name: str = name, parameter: Tensor = parameter) -> Tensor:
                return state.read(kind, name, 0, parameter.numel()).view(parameter.shape)

            parameter.copy_(read(PARAMETER))
            try:
                moments = {kind: read(kind).to(parameter.device) for kind in MOMENTS}
            except KeyError:  # saved before the first optimizer step
                continue
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(steps), device=parameter.device),
                **moments,
            }
