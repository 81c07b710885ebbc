"""Tensor parallelism: megatron-core's layers inside a Hugging Face model, each rank with its part of every layer.

Column- and row-parallel linears and the vocabulary-parallel embedding are those of Shoeybi et al. 2019 (arXiv
1909.08053, section 3). Which layer is cut how is the architecture's own plan (transformers' base_model_tp_plan).
The vocabulary is padded to a multiple of the degree; padding has no part in the loss.
"""

from __future__ import annotations

import fnmatch
import functools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from mmscale_kernels import VocabularyShard, linear_cross_entropy
from torch import Tensor, nn

from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.logit_rules import PLAIN, LogitRules
from mmscale.parallel.regions import Regions
from mmscale.parallel.shards import Shard, even_shard, is_sharded, mark, shard_of
from mmscale.parallel.zero import Partition

_PARTIAL_GRADIENT = "replicated_with_grad_allreduce"
"""A whole layer that sees a part of the heads on each rank."""


def require_divisible(config: Any, size: int, path: str) -> None:
    """UserError when a model cannot be cut into `size` parts."""
    keys = ("num_key_value_heads", "num_attention_heads", "intermediate_size")
    values = {key: getattr(config, key) for key in keys if getattr(config, key, None)}
    common = math.gcd(*values.values())
    fitting = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
    for key, value in values.items():
        if value % size:
            raise UserError(
                f"parallel.tensor_parallel_size={size} does not divide {key}={value} of {path}: use one of {fitting}"
            )


def shard_model(
    model: Any,
    context: ParallelContext,
    dtype: torch.dtype,
    read: Callable[[str, Shard], Tensor],
    partition: Partition | None = None,
) -> TensorParallelState:
    """Cut a causal LM, whose parameters are on the meta device, and fill what this rank holds by `read(name, piece)`, one
    parameter at a time; `partition` cuts each over the data-parallel ranks before the next one is read.

    Returns how to use it. Raises UserError for layers whose plan we do not know.
    """
    layers, regions = _Layers(context, dtype), Regions(context)
    plan = {f"{model.base_model_prefix}.{key}": value for key, value in (model.config.base_model_tp_plan or {}).items()}
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    columns: dict[str, list[Any]] = defaultdict(list)
    for name, module in list(model.named_modules()):
        style = next((value for pattern, value in plan.items() if fnmatch.fnmatchcase(name, pattern)), None)
        if module is embedding:
            made: nn.Module = layers.embedding(module)
        elif module is head:
            made = layers.head(module)
            _enter_together(name, made, [made], regions.copy, regions)
        elif style == "colwise" and type(module) is nn.Linear:
            made = layers.column(module)
            columns[name.rpartition(".")[0]].append(made)
        elif style == "rowwise" and type(module) is nn.Linear:
            made = layers.row(module, regions)
        elif style in (None, _PARTIAL_GRADIENT):
            continue
        else:
            raise UserError(f"{type(model).__name__} wants its layer {name} cut as '{style}', which is not supported")
        model.set_submodule(name, made)
    for name, linears in columns.items():
        _enter_together(name, model.get_submodule(name), linears, regions.enter, regions)
    if model.config.tie_word_embeddings:
        model.get_output_embeddings().weight = model.get_input_embeddings().weight
    partly_seen = [pattern for pattern, style in plan.items() if style == _PARTIAL_GRADIENT]
    summed = _partly_used(model, partly_seen, context)
    fill = _Filling(context, dtype, read, summed, partition)
    fill.all(model)
    return TensorParallelState(int(model.config.vocab_size), context, regions)


def _partly_used(model: Any, patterns: Sequence[str], context: ParallelContext) -> set[str]:
    """Parameters that are whole on every rank of the tensor group, each of which sees a part of their uses."""
    names = {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        for own, _ in module.named_parameters()
    }
    if context.sequence_parallel:  # what is whole on every rank sees a stretch of the tokens there
        names |= {name for name, parameter in model.named_parameters() if not is_sharded(parameter)}
    return names


@dataclass(frozen=True)
class _Filling:
    """Puts memory and values in the place of parameters that have neither; at no time more than one is whole."""

    context: ParallelContext
    dtype: torch.dtype
    read: Callable[[str, Shard], Tensor]
    summed: set[str]
    """Names of those whose gradients the tensor group adds up."""
    partition: Partition | None

    def all(self, model: Any) -> None:
        places: dict[int, list[str]] = defaultdict(list)  # tied ones have several
        for name, parameter in model.named_parameters(remove_duplicate=False):
            places[id(parameter)].append(name)
        for name, empty in list(model.named_parameters()):
            made = self._made(name, empty)
            for place in places[id(empty)]:
                owner, _, leaf = place.rpartition(".")
                setattr(model.get_submodule(owner), leaf, made)
            if self.partition is not None:
                self.partition(made)

    def _made(self, name: str, empty: nn.Parameter) -> nn.Parameter:
        """The values of this rank's piece; rows that pad it are zero."""
        shard = shard_of(empty)
        wanted = self.partition.dtype if self.partition is not None else None
        values = torch.zeros(empty.shape, dtype=wanted or self.dtype, device=self.context.device)
        if shard.size:
            values.narrow(shard.dimension, 0, shard.size).copy_(self.read(name, shard))
        made = nn.Parameter(values)
        made.__dict__.update(empty.__dict__)  # piece, and what megatron-core notes
        if name in self.summed:
            self._sum_gradients(made)
        return made

    def _sum_gradients(self, parameter: nn.Parameter) -> None:
        def summed(gradient: Tensor) -> Tensor:
            total = gradient.clone(memory_format=torch.contiguous_format)
            dist.all_reduce(total, group=self.context.tensor_group)
            return total

        parameter.register_hook(summed)


class _Layers:
    """Makes megatron-core's layers under the names and shapes of the Hugging Face ones."""

    def __init__(self, context: ParallelContext, dtype: torch.dtype) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # megatron advises other libraries
            from megatron.core import ModelParallelConfig  # late: its import takes seconds

        self.context = context
        self.common: dict[str, Any] = {
            "config": ModelParallelConfig(
                tensor_model_parallel_size=context.tensor_size,
                use_cpu_initialization=context.device.type == "cpu",
                perform_initialization=False,
                params_dtype=dtype,
            ),
            "init_method": lambda weight: weight,  # never called: weights are read
            "tp_group": context.tensor_group,
        }

    def _shard(self, shape: tuple[int, ...], dimension: int) -> Shard:
        return even_shard(shape, dimension, self.context.tensor_rank, self.context.tensor_size)

    def _padded(self, count: int) -> int:
        return -(-count // self.context.tensor_size) * self.context.tensor_size

    def embedding(self, module: Any) -> nn.Module:
        scale = getattr(module, "scalar_embed_scale", None)  # Gemma's; its buffer has no value on the meta device
        if type(module) is not nn.Embedding and scale is None:
            raise UserError(
                f"embeddings of the kind {type(module).__name__} cannot be cut: set parallel.tensor_parallel_size=1"
            )
        made = _embedding_class()(self._padded(module.num_embeddings), module.embedding_dim, **self.common)
        made.scale = scale
        return self._marked(made, {"weight": self._shard((module.num_embeddings, module.embedding_dim), 0)})

    def head(self, module: nn.Linear) -> nn.Module:
        made = self.column(module, _head_class())
        made.context = self.context
        return made

    def column(self, module: nn.Linear, kind: Any = None) -> Any:
        """Cut along the output."""
        out, width, has_bias = module.out_features, module.in_features, module.bias is not None
        made = (kind or _column_class())(
            width, self._padded(out), bias=has_bias, gather_output=False, disable_grad_reduce=True, **self.common
        )
        shards = {"weight": self._shard((out, width), 0)} | ({"bias": self._shard((out,), 0)} if has_bias else {})
        return self._marked(made, shards)

    def row(self, module: nn.Linear, regions: Regions) -> nn.Module:
        """Cut along the input; the bias is added after the sum."""
        out, width = module.out_features, module.in_features
        made = _row_class()(width, out, bias=False, input_is_parallel=True, skip_bias_add=False, **self.common)
        made.regions = regions
        if module.bias is not None:
            made.bias = nn.Parameter(torch.empty(out, device="meta"))  # whole: read like every other
        return self._marked(made, {"weight": self._shard((out, width), 1)})

    @staticmethod
    def _marked(module: nn.Module, shards: dict[str, Shard]) -> nn.Module:
        for name, shard in shards.items():
            whole = getattr(module, name)
            setattr(module, name, nn.Parameter(whole.to("meta")))  # megatron-core gives it memory, on a GPU too
            getattr(module, name).__dict__.update(whole.__dict__)
            mark(getattr(module, name), shard)
        return module


@functools.cache
def _embedding_class() -> Any:
    from megatron.core.tensor_parallel import VocabParallelEmbedding

    class Embedding(VocabParallelEmbedding):
        """Rows of the table, times a factor in its dtype where the architecture has one."""

        scale: float | None

        def forward(self, token_ids: Tensor) -> Tensor:
            rows: Tensor = super().forward(token_ids)
            return rows if self.scale is None else rows * torch.tensor(self.scale, dtype=rows.dtype, device=rows.device)

    return Embedding


@functools.cache
def _column_class() -> Any:
    from megatron.core.tensor_parallel import ColumnParallelLinear

    class Column(ColumnParallelLinear):
        """Y_i = X W_i^T; megatron-core returns (output, bias), Hugging Face models expect the output."""

        entrance: _Entrance

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = super().forward(self.entrance.check(inputs))[0]
            return output

    return Column


@functools.cache
def _head_class() -> Any:
    class Head(_column_class()):  # type: ignore[misc]
        """Logits of a stretch of the vocabulary [N, v]; with targets their summed cross entropy over all of it."""

        context: ParallelContext
        rules: LogitRules = PLAIN

        def forward(self, hidden_ND: Tensor, targets_N: Tensor | None = None) -> Tensor:
            if targets_N is None:
                logits: Tensor = super().forward(
                    hidden_ND
                )  # before any factor: it knows what it may read by its storage
                return self.rules.capped(logits if self.rules.scale == 1.0 else logits * self.rules.scale)
            shard, weight, bias = shard_of(self.weight), self.weight, self.bias
            if shard.size < weight.shape[0]:  # padding has no logits
                weight, bias = weight[: shard.size], None if bias is None else bias[: shard.size]
            hidden_ND = self.rules.scaled(self.entrance.check(hidden_ND))
            vocabulary_shard = VocabularyShard(self.context.tensor_group, shard.begin, self.weight.shape[0])
            return linear_cross_entropy(
                hidden_ND, weight, targets_N, bias, vocabulary_shard, softcap=self.rules.softcap
            )

    return Head


@functools.cache
def _row_class() -> Any:
    from megatron.core.tensor_parallel import RowParallelLinear

    class Row(RowParallelLinear):
        """Y = sum over ranks of X_i W_i^T."""

        regions: Regions

        def forward(self, inputs: Tensor) -> Tensor:
            output = self.regions.leave(nn.functional.linear(inputs, self.weight))
            return output if self.bias is None else output + self.bias

    return Row


class _Entrance:
    """Where a module's column-parallel layers get what they read, entered once for all of them.

    megatron-core would sum its gradient in each layer: five all-reduces for the q, k, v, gate and up of a block
    instead of two. A layer that reads anything else would have a wrong gradient, and is refused; but what entered beside it.
    """

    def __init__(self, name: str, passage: Callable[[Tensor], Tensor], regions: Regions) -> None:
        self.name, self._passage, self._regions = name, passage, regions
        self._entered = 0
        """Address of the storage that was entered: a reference would keep a row's activations alive."""

    def open(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Forward pre-hook of the module."""
        read: Tensor = args[0] if args else kwargs["hidden_states"]
        entered = self._passage(read)
        self._entered = entered.untyped_storage()._cdata
        if args:
            return (entered, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": entered}

    def check(self, inputs: Tensor) -> Tensor:
        # by storage: under ZeRO-3 DeepSpeed puts views of its own in between
        if inputs.untyped_storage()._cdata not in (self._entered, self._regions.storage_beside):
            raise UserError(
                f"a cut layer of {self.name} does not read that module's own input: this architecture cannot be cut "
                f"here, set parallel.tensor_parallel_size=1"
            )
        return inputs


def _enter_together(
    name: str, module: Any, columns: Sequence[Any], passage: Callable[[Tensor], Tensor], regions: Regions
) -> None:
    """Let the cut layers of a module enter what they read together."""
    entrance = _Entrance(name, passage, regions)
    module.register_forward_pre_hook(entrance.open, with_kwargs=True)
    for column in columns:
        column.entrance = entrance
    for child, layer in module.named_children():
        if isinstance(layer, nn.Linear):
            raise UserError(f"{name}.{child} stays whole beside cut layers that read the same, which is not supported")


@dataclass(frozen=True)
class TensorParallelState:
    """How to use a model that is cut over a tensor group."""

    vocabulary: int
    """Without padding."""
    context: ParallelContext
    regions: Regions

    @property
    def vocabulary_shard(self) -> Shard:
        """The part of the vocabulary that this rank holds."""
        return even_shard((self.vocabulary,), 0, self.context.tensor_rank, self.context.tensor_size)

    def own_logits(self, part_Nv: Tensor) -> Tensor:
        """This rank's logits without padding."""
        return part_Nv[:, : self.vocabulary_shard.size]

    def whole_logits(self, part_Nv: Tensor) -> Tensor:
        """Logits [N, V] on every rank, of what the head gave; no gradient flows back."""
        return self.joined(self.own_logits(part_Nv))

    def joined(self, own_Nv: Tensor) -> Tensor:
        """Logits [N, V] of every rank's own ones, which may differ in number."""
        longest = -(-self.vocabulary // self.context.tensor_size)
        padded = nn.functional.pad(own_Nv.detach(), (0, longest - own_Nv.shape[1])).contiguous()
        parts = [torch.empty_like(padded) for _ in range(self.context.tensor_size)]
        dist.all_gather(parts, padded, group=self.context.tensor_group)
        return torch.cat(parts, dim=-1)[..., : self.vocabulary]
