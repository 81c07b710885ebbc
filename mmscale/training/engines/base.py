"""The boundary behind which parameters, gradients and optimizer live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmscale.config.training import OptimizerConfig
from mmscale.data.packing import PackedRow
from mmscale.models.encoders import Encoder
from mmscale.parallel.shards import Shard
from mmscale.training.objective import Objective

PARAMETER = "parameter"
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's first and second moment, under torch's names."""


class NonFiniteLoss(Exception):
    """Loss or gradient norm is inf or nan; raised before the optimizer moved anything."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did, on all ranks together."""

    loss: float
    """Mean over the step's target tokens."""
    gradient_norm: float
    target_tokens: int


@dataclass(frozen=True)
class Fragment:
    """A stretch of one flattened tensor of the training state, as one rank owns it."""

    kind: str
    """PARAMETER or one of MOMENTS."""
    name: str
    """Name of the parameter."""
    shard: Shard
    """The part of the parameter that this rank's tensor group member holds."""
    offset: int
    """Where `values` begin in the flattened piece."""
    values: Tensor
    """1-D"""


class State(Protocol):
    """Training state to read from, whatever the layout it was written under."""

    def read(self, kind: str, name: str, shard: Shard, start: int, stop: int) -> Tensor:
        """Elements start..stop of a flattened piece; KeyError when there is nothing of that kind and name."""
        ...


class Engine(Protocol):
    """One optimizer step on the rows of this rank, and the state that makes it repeatable.

    Every rank calls every method at the same time.
    """

    def train_step(self, rows: Sequence[PackedRow], learning_rate: float) -> StepResult:
        """Raises NonFiniteLoss before the optimizer step."""
        ...

    def loss(self, rows: Sequence[PackedRow]) -> tuple[float, int]:
        """(summed loss, target tokens) of all ranks' rows, without gradients."""
        ...

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every trainable parameter, whole."""
        ...

    def fragments(self) -> Iterator[Fragment]:
        """What this rank has to write; over all ranks every element occurs once."""
        ...

    def restore(self, state: State, steps: int) -> None:
        """Take up parameters and moments after so many optimizer steps."""
        ...


def trainable(objective: Objective) -> dict[str, nn.Parameter]:
    """Parameters that have gradients, by name; there is at least one."""
    trainable = {name: p for name, p in objective.module.named_parameters() if p.requires_grad}
    if not trainable:
        raise ValueError("the objective has no trainable parameter")
    return trainable


def make_optimizer(objective: Objective, settings: OptimizerConfig, fused: bool) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; each group has the `factor` it takes on the scheduled learning rate."""
    groups: dict[float, list[nn.Parameter]] = {settings.learning_rate: []}
    rates = _own_rates(objective.module, settings)
    for parameter in trainable(objective).values():
        groups.setdefault(rates.get(id(parameter), settings.learning_rate), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": own, "factor": rate / settings.learning_rate} for rate, own in groups.items() if own],
        lr=settings.learning_rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=fused,
    )


def _own_rates(module: nn.Module, settings: OptimizerConfig) -> dict[int, float]:
    """Rate of each parameter that has one of its own, by id."""
    rates: dict[int, float] = {}
    if settings.embedding_learning_rate is not None:
        # by what they are for, not by class: cut over ranks they are of another
        models = [one for one in module.modules() if isinstance(one, PreTrainedModel)]
        rates |= {id(model.get_input_embeddings().weight): settings.embedding_learning_rate for model in models}
    if settings.encoder_learning_rate is not None:
        encoders = [one for one in module.modules() if isinstance(one, Encoder)]
        rates |= {id(p): settings.encoder_learning_rate for encoder in encoders for p in encoder.parameters()}
    return rates


def set_learning_rate(optimizer: Any, learning_rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["factor"]
