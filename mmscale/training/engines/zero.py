"""DeepSpeed ZeRO-1, 2 and 3 behind the engine boundary (Rajbhandari et al. 2020, arXiv 1910.02054)."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmscale.config.parallel import ZeroConfig
from mmscale.config.training import StageConfig
from mmscale.data.packing import PackedRow
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.shards import is_sharded, shard_of
from mmscale.parallel.zero import deepspeed_json, model_parallel_unit, start_deepspeed
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


class _Loss(nn.Module):
    """An objective as the module DeepSpeed wraps: its hooks gather parameters around submodules' forwards.

    A frozen part that ranks call unequally often stays out of it, whole and as it was loaded.
    """

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.parts = nn.ModuleList(objective.in_step)
        self._objective = [objective]  # in a list, so that nothing else is registered

    def forward(self, row: PackedRow) -> Tensor:
        return self._objective[0].loss_sum(row)


class ZeroEngine:
    """Optimizer state (1), gradients (2) and parameters (3) partitioned over the data-parallel ranks."""

    def __init__(self, objective: Objective, config: StageConfig, zero: ZeroConfig, context: ParallelContext) -> None:
        deepspeed = start_deepspeed(zero, context)
        self.context, self.stage = context, zero.stage
        self._named = trainable(objective)
        for module, parameter in objective.read_outside:
            deepspeed.zero.register_external_parameter(module, parameter)
        exact = self._exact_values(objective.module) if config.precision == "bfloat16" else {}
        self.engine, _, _, _ = deepspeed.initialize(
            model=_Loss(objective),
            optimizer=make_optimizer(objective, config.optimizer, fused=False),
            config=deepspeed_json(zero, config, context.data_size),
            mpu=model_parallel_unit(objective.module, context),
            dist_init_required=False,
        )
        self._begin_from(exact)

    def _exact_values(self, module: nn.Module) -> dict[str, Tensor]:
        """What this rank holds of each trained weight, flat, as it was loaded: all of it, or under stage 3 its piece of an LLM's;
        DeepSpeed makes master weights of values that it rounded to bfloat16. Those pieces become bfloat16 here, in which it
        computes.
        """
        if self.stage < 3:
            return {name: parameter.data.view(-1) for name, parameter in self._named.items()}
        exact = {name: getattr(p, "ds_tensor", p).data.view(-1) for name, p in self._named.items()}
        for parameter in module.parameters():
            for piece in ("ds_tensor", "ds_secondary_tensor"):
                held = getattr(parameter, piece, None)
                if held is not None and held.dtype == torch.float32:
                    held.data = held.data.to(torch.bfloat16)
                    parameter.data = parameter.data.to(torch.bfloat16)
        return {name: values for name, values in exact.items() if values.dtype == torch.float32}

    @torch.no_grad()
    def _begin_from(self, exact: dict[str, Tensor]) -> None:
        """Master weights from values that nobody rounded."""
        for group, names in self._groups().items():
            with self._at_hand(group):
                for name in [name for name in names if name in exact]:
                    for kind, offset, values in self._owned(self._named[name]):
                        if kind == PARAMETER:
                            whole = offset + values.numel() <= exact[name].numel()  # or this rank's piece of it
                            values.copy_(exact[name].narrow(0, offset if whole else 0, values.numel()))

    def train_step(self, rows: Sequence[PackedRow], learning_rate: float) -> StepResult:
        target_tokens = int(self.context.sum([sum(row.target_tokens for row in rows)])[0])
        share = self.context.data_size / target_tokens  # DeepSpeed takes the mean over ranks; the loss is a sum
        set_learning_rate(self.engine.optimizer, learning_rate)
        total = torch.zeros((), dtype=torch.float64, device=self.context.device)  # read once, after the last row
        for number, row in enumerate(rows):
            self.engine.set_gradient_accumulation_boundary(number == len(rows) - 1)
            loss = self.engine(row.to(self.context.device)) * share
            self.engine.backward(loss, scale_wrt_gas=False)
            total += loss.detach() / self.context.data_size
        self.engine.step()
        mean = self.context.sum([float(total)])[0]
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        if self.engine.optimizer.overflow or not torch.isfinite(torch.tensor([mean, norm])).all():
            raise NonFiniteLoss(f"loss {mean}, gradient norm {norm}")
        return StepResult(mean, norm, target_tokens)

    @torch.no_grad()
    def loss(self, rows: Sequence[PackedRow]) -> tuple[float, int]:
        total = torch.zeros((), dtype=torch.float64, device=self.context.device)
        for row in rows:
            total += self.engine(row.to(self.context.device))
        summed = self.context.sum([float(total), sum(row.target_tokens for row in rows)])
        return summed[0], int(summed[1])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shard_of(parameter).shape for name, parameter in self._named.items()}

    def fragments(self) -> Iterator[Fragment]:
        for group, names in self._groups().items():
            with self._at_hand(group) as borrowed:
                for name in names:
                    parameter = self._named[name]
                    if self.context.tensor_rank != 0 and not is_sharded(parameter):
                        continue
                    for kind, offset, values in self._owned(parameter):
                        yield Fragment(kind, name, shard_of(parameter), offset, values.clone() if borrowed else values)

    def _groups(self) -> dict[int, list[str]]:
        """Names by the number of the flat tensor that holds them under stage 3; all together otherwise."""
        if self.stage < 3:
            return {0: list(self._named)}
        optimizer, groups = self.engine.optimizer, defaultdict(list)
        for name, parameter in self._named.items():
            groups[optimizer.grad_position[optimizer.get_param_id(parameter)][0]].append(name)
        return dict(groups)

    @contextlib.contextmanager
    def _at_hand(self, group: int) -> Iterator[bool]:
        """A group's master values and moments in memory; True where DeepSpeed keeps them on NVMe and takes them back."""
        optimizer = self.engine.optimizer
        away = self.stage == 3 and optimizer._swappable_optimizer_subgroup(group)
        if away:
            optimizer._optimizer_states_and_gradient_swap_in(group)
        try:
            yield away
        finally:
            if away:
                optimizer._optimizer_states_and_gradient_swap_out(group)

    def _owned(self, parameter: nn.Parameter) -> Iterator[tuple[str, int, Tensor]]:
        """(kind, offset, float32 values) of what this rank holds of a parameter; views, to be read or written."""
        owned = self._owned_stage3 if self.stage == 3 else self._owned_stage12
        elements = shard_of(parameter).elements
        for kind, offset, values in owned(parameter):
            if offset < elements:  # what lies behind is padding
                yield kind, offset, values[: elements - offset]

    def _owned_stage12(self, parameter: nn.Parameter) -> Iterator[tuple[str, int, Tensor]]:
        mapping = parameter._hp_mapping  # type: ignore[attr-defined]
        if mapping is None:  # no part of it is ours
            return
        begin, place = mapping.lp_fragment_address.start, mapping.hp_fragment_address
        flat = self._flat_partitions()[mapping.param_group_index]
        yield PARAMETER, begin, flat.detach().narrow(0, place.start, place.numel)
        for kind, tensor in self._moments(flat):
            yield kind, begin, tensor.narrow(0, place.start, place.numel)

    def _owned_stage3(self, parameter: nn.Parameter) -> Iterator[tuple[str, int, Tensor]]:
        optimizer = self.engine.optimizer
        group, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        flat = self._flat_partitions()[group]
        begin = size * self.context.data_rank
        valid = min(size, parameter.ds_numel - begin)  # type: ignore[attr-defined]
        if valid <= 0:  # the last ranks may hold padding alone
            return
        yield PARAMETER, begin, flat.detach().narrow(0, start, valid)
        for kind, tensor in self._moments(flat):
            yield kind, begin, tensor.narrow(0, start, valid)

    def _moments(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        held = self.engine.optimizer.optimizer.state.get(flat, {})
        for kind in MOMENTS:
            if kind in held:
                yield kind, held[kind]

    def _flat_partitions(self) -> list[Tensor]:
        """This rank's float32 master values, a tensor for each group of parameters."""
        optimizer = self.engine.optimizer
        # stage 3, DeepSpeed's BF16_Optimizer (stage 1 in bfloat16), stages 1 and 2
        names = ("fp32_partitioned_groups_flat", "fp32_groups_flat_partition", "single_partition_of_fp32_groups")
        tensors: list[Tensor] = next(getattr(optimizer, name) for name in names if hasattr(optimizer, name))
        return tensors

    @torch.no_grad()
    def restore(self, state: State, steps: int) -> None:
        for group, names in self._groups().items():
            with self._at_hand(group):
                flats = self._flat_partitions()
                for flat in [flats[group]] if self.stage == 3 else flats:
                    held: dict[str, Any] = self.engine.optimizer.optimizer.state[flat]
                    held["step"] = torch.tensor(float(steps))
                    for kind in MOMENTS:
                        held.setdefault(kind, torch.zeros_like(flat))
                for name in names:
                    self._restore_owned(name, state)
            for name in names:
                self._restore_working_copy(name, self._named[name], state)
        if self.stage == 3 and self.engine.optimizer.persistent_parameters:
            self.engine.optimizer.persistent_parameters[0].all_gather(self.engine.optimizer.persistent_parameters)

    def _restore_owned(self, name: str, state: State) -> None:
        parameter = self._named[name]
        for kind, offset, values in self._owned(parameter):
            try:
                values.copy_(state.read(kind, name, shard_of(parameter), offset, offset + values.numel()))
            except KeyError:  # saved before the first optimizer step
                values.zero_()

    def _restore_working_copy(self, name: str, parameter: nn.Parameter, state: State) -> None:
        """The copy that the forward pass reads: whole under stages 1 and 2, this rank's part under 3."""
        shard = shard_of(parameter)
        if self.stage == 3:
            held: Any = parameter.ds_tensor  # type: ignore[attr-defined]
            begin = held.ds_numel * self.context.data_rank
            valid = max(0, min(held.ds_numel, shard.elements - begin))
            away = getattr(parameter, "nvme_swapper", None) if held.numel() < held.ds_numel else None
            if away is not None:
                away.swap_in([parameter], async_op=False)
            if valid:
                held.data.narrow(0, 0, valid).copy_(state.read(PARAMETER, name, shard, begin, begin + valid))
            if away is not None:
                away.swap_out_and_release([parameter])
            return
        parameter.data.view(-1)[: shard.elements].copy_(state.read(PARAMETER, name, shard, 0, shard.elements))
