"""The boundary behind which parameters, gradients and optimizer live; a DeepSpeed engine fits here as well."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from mmscale.config.training import StageConfig
from mmscale.data.packing import PackedRow
from mmscale.training.objective import Objective


class NonFiniteLoss(Exception):
    """Loss or gradient norm is inf or nan; raised before the optimizer moved anything."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did."""

    loss: float
    """Mean over the step's target tokens."""
    gradient_norm: float
    target_tokens: int


class Engine(Protocol):
    """One optimizer step on the rows of this rank, and the state that makes it repeatable."""

    def train_step(self, rows: Sequence[PackedRow], learning_rate: float) -> StepResult: ...

    def loss(self, rows: Sequence[PackedRow]) -> tuple[float, int]:
        """(summed loss, target tokens) without gradients."""
        ...

    def parameters(self) -> dict[str, Tensor]:
        """Trainable parameters by name."""
        ...

    def optimizer_tensors(self) -> dict[str, Tensor]: ...

    def load(self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None: ...


class LocalEngine:
    """Everything in one process on one device."""

    def __init__(self, objective: Objective, config: StageConfig, device: torch.device) -> None:
        self.objective, self.config, self.device = objective, config, device
        self._named = {n: p for n, p in objective.module.named_parameters() if p.requires_grad}
        if not self._named:
            raise ValueError("the objective has no trainable parameter")
        settings = config.optimizer
        self.optimizer = torch.optim.AdamW(
            self._groups(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def _groups(self) -> list[dict[str, Any]]:
        """Parameters with the factor on the scheduled learning rate that they take."""
        settings = self.config.optimizer
        tables = {id(m.weight) for m in self.objective.module.modules() if isinstance(m, torch.nn.Embedding)}
        if settings.embedding_learning_rate is None:
            tables = set()
        groups = []
        for chosen, factor in ((False, 1.0), (True, (settings.embedding_learning_rate or 0) / settings.learning_rate)):
            parameters = [p for p in self._named.values() if (id(p) in tables) == chosen]
            if parameters:
                groups.append({"params": parameters, "factor": factor})
        return groups

    def _precision(self) -> Any:
        if self.config.precision == "bfloat16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def train_step(self, rows: Sequence[PackedRow], learning_rate: float) -> StepResult:
        """Raises NonFiniteLoss before the optimizer step."""
        target_tokens = sum(row.target_tokens for row in rows)
        total = torch.zeros((), dtype=torch.float64)
        self.optimizer.zero_grad(set_to_none=True)
        for row in rows:
            with self._precision():
                loss = self.objective.loss_sum(row.to(self.device)) / target_tokens
            loss.backward()
            total += loss.detach().double().cpu()
        norm = torch.nn.utils.clip_grad_norm_(self._named.values(), self.config.optimizer.max_gradient_norm)
        if not (torch.isfinite(total) and torch.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NonFiniteLoss(f"loss {float(total)}, gradient norm {float(norm)}")
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["factor"]
        self.optimizer.step()
        return StepResult(float(total), float(norm), target_tokens)

    @torch.no_grad()
    def loss(self, rows: Sequence[PackedRow]) -> tuple[float, int]:
        total, tokens = 0.0, 0
        for row in rows:
            with self._precision():
                total += float(self.objective.loss_sum(row.to(self.device)))
            tokens += row.target_tokens
        return total, tokens

    def parameters(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in self._named.items()}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, parameter in self._named.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{key}/{name}"] = value
        return tensors

    def load(self, parameters: dict[str, Tensor], optimizer: dict[str, Tensor]) -> None:
        if set(parameters) != set(self._named):
            missing = sorted(set(self._named) ^ set(parameters))
            raise ValueError(f"checkpoint and model differ in parameter {missing[0]}")
        with torch.no_grad():
            for name, value in parameters.items():
                self._named[name].copy_(value)
        for key, value in optimizer.items():
            kind, name = key.split("/", 1)
            self.optimizer.state[self._named[name]][kind] = value.to(self.device)
