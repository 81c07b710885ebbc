"""What is minimised: summed cross entropy over target tokens; the trainer divides by their global number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from mmscale.data.packing import PackedRow
from mmscale.models.merge import MergedModel


class Objective(Protocol):
    """A loss on packed rows, and the module whose trainable parameters it moves."""

    module: nn.Module
    in_step: Sequence[nn.Module]
    """The parts of `module` that every rank calls equally often and in the same order, whatever its rows hold.

    ZeRO-3 gathers parameters at each call, so it may partition these alone: it would wait for ever in another.
    """

    read_outside: Sequence[tuple[nn.Module, nn.Parameter]]
    """Modules and parameters of others that they read in their forward: ZeRO-3 gathers these as well."""

    def loss_sum(self, row: PackedRow) -> Tensor:
        """Summed loss (float32 scalar) over the row's target tokens."""
        ...


class CausalObjective:
    """Causal cross entropy of targets given merged or plain prompts (MindMerger eq. 4 and 6; QAlign eq. 1, 2)."""

    def __init__(self, model: MergedModel, equal_calls: bool = False) -> None:
        """With `equal_calls` a trained encoder reads a row at once, however unequal its texts are."""
        self.module: nn.Module = model
        # a frozen encoder runs once for each group of about equal lengths: whole on every rank
        trained = model.encoder if model.encoder is not None and model.encoder.is_trained else None
        if trained is not None:
            trained.reads_rows_at_once = equal_calls
        self.in_step: Sequence[nn.Module] = [
            part for part in (model.language_model, model.connector, trained) if part is not None
        ]
        joins = [] if model.connector is None else [model.connector]
        self.read_outside: Sequence[tuple[nn.Module, nn.Parameter]] = [
            (one, parameter) for one in joins for parameter in one.read_in_forward()
        ]
        self.model = model

    def loss_sum(self, row: PackedRow) -> Tensor:
        hidden, targets = self.model.hidden(row, row.target_rows), row.labels.index_select(0, row.target_rows)
        return self.model.language_model.cross_entropy_sum(hidden, targets)
