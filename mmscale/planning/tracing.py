"""Memory of one training row, by running the model's own code on tensors without memory and watching what stays alive.

No formula for activations has to be kept in step with an architecture or its cutting: what autograd saves is counted.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface

from mmscale.config.model import EncoderConfig
from mmscale.models.assembly import make_trainable
from mmscale.models.connectors import Connected, ConnectorKind, Depths
from mmscale.models.encoders.base import Encoder, family, family_of, load_encoder_config, state_shape
from mmscale.models.language_model import LanguageModel
from mmscale.models.layer_fusion import EncoderMemory, FusedAttention
from mmscale.models.packed_layout import PackedLayout
from mmscale.parallel.context import ParallelContext
from mmscale.planning.fake_ranks import DEVICE, Watching, fake_model, fake_rank
from mmscale.planning.parallel_plan import ParallelPlan, shortened

_LAYERS = (2, 3)
"""Layers of the two traced models; memory is linear in their number."""


class LiveBytes(Watching):
    """Counts the bytes of tensors made inside it that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._sizes: dict[int, int] = {}

    def note(self, func: Any, args: Any, result: Any) -> None:
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._note(value)

    def ignore(self, tensors: Any) -> None:
        """Do not count these, which were made before."""
        for tensor in tensors:
            self._sizes.setdefault(tensor.untyped_storage()._cdata, 0)

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class _TracedAttention(torch.autograd.Function):
    """What flash-attention allocates: it saves query, key, value, output and one float32 a row and head."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, out, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _attend(grids: bool) -> Callable[..., tuple[Tensor, None]]:
    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if grids:  # packed_sdpa copies rows into right-padded grids, and its output out of one
            query, key, value = query.clone(), key.clone(), value.clone()
        out: Tensor = _TracedAttention.apply(query, key, value)
        rows = out.transpose(1, 2)
        return rows.clone() if grids else rows

    def attention(
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *_: Any,
        mmscale_fused: FusedAttention | None = None,
        **__: Any,
    ) -> tuple[Tensor, None]:
        rows = attended(query, key, value)
        if mmscale_fused is not None:
            made = mmscale_fused.keys_and_values(module, query.shape[-1])
            rows = rows + mmscale_fused.memory.gates[0] * attended(query, *(one[None].transpose(1, 2) for one in made))
        return rows, None

    return attention


TRACED_ATTENTION = {"flash": "mmscale_traced_varlen", "grids": "mmscale_traced_sdpa"}
"""Names for transformers: what flash-attention, and what torch's SDPA on padded grids allocate."""
for _kind, _name in TRACED_ATTENTION.items():
    AttentionInterface.register(_name, _attend(_kind == "grids"))


@dataclass(frozen=True, kw_only=True)
class RowWork:
    """One row as one rank sees it."""

    tokens: int
    """Merged tokens, T."""
    targets: int
    """Rows that enter the head."""
    dtype: torch.dtype
    """The LLM computes in."""
    trained: bool
    """Whether the LLM's parameters have gradients; else its inputs have."""
    checkpointing: bool
    flash: bool
    tensor_size: int = 1
    sequence_parallel: bool = False
    read_tokens: int = 0
    """Encoder tokens that every layer reads by itself, where layers do."""


@dataclass(frozen=True)
class RowMemory:
    """Bytes alive beyond parameters and their gradients."""

    forward: int
    """At the end of the forward pass, before the head: what autograd saved."""
    peak: int
    """At any time of forward and backward pass."""


def trace(model_config: Any, work: RowWork) -> RowMemory:
    """Bytes of one row, forward and backward, through all layers of a model, on one rank of its tensor group."""
    parallel_plan = ParallelPlan(work.tensor_size, work.tensor_size, 0, work.sequence_parallel)
    with fake_rank(0, parallel_plan) as context, FakeTensorMode():
        few, more = (_trace(shortened(model_config, layers), work, context) for layers in _LAYERS)
    extra = int(model_config.num_hidden_layers) - _LAYERS[0]
    return RowMemory(few.forward + extra * (more.forward - few.forward), few.peak + extra * (more.peak - few.peak))


def connector_bytes(kind: ConnectorKind, sizes: tuple[int, int, Depths], lengths: Sequence[int], autocast: bool) -> int:
    """Bytes that a connector between an encoder and an LLM of these widths and layers keeps for its backward pass, of encoder
    texts of so many tokens, in float32 or under bfloat16 autocast; the LLM's input, which it makes, is not among them."""
    rows = sum(map(kind.settings.prefix_length, lengths))
    ends = torch.tensor(list(map(kind.settings.prefix_length, lengths))).cumsum(0) - 1
    read = torch.ones(rows, dtype=torch.bool).index_fill(0, ends, False).nonzero()[:, 0]
    with FakeTensorMode(allow_non_fake_inputs=True):
        joins = kind.build(*sizes)
        shape = state_shape(sizes[0], sizes[2].encoder if kind.reads_all_layers else None)
        states, tokens = torch.empty(sum(lengths), *shape), torch.empty(0, sizes[1])
        with LiveBytes() as live, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            live.ignore(joins.parameters())
            made: Tensor | Connected = joins(states, tokens, ends.new_empty(0), read, ends, tuple(lengths))
            merged = made if isinstance(made, Tensor) else made.rows
            return live.now - merged.numel() * merged.element_size()


@functools.cache
def encoder_bytes(config: EncoderConfig, lengths: tuple[int, ...], autocast: bool, checkpointing: bool) -> int:
    """Bytes that a trained encoder keeps for its backward pass of texts of so many tokens, in float32 or under bfloat16
    autocast, all of one grid."""
    chosen, model_config = family(family_of(config)), load_encoder_config(config)
    with FakeTensorMode():
        encoder = Encoder(chosen.half(chosen.build(model_config)), chosen.width(model_config))
        encoder.requires_grad_(True)
        if checkpointing:
            encoder.checkpoint_activations()
        ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
        with LiveBytes() as live, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            live.ignore([*encoder.parameters(), *encoder.buffers()])
            states = encoder.model(input_ids=ids).last_hidden_state
            kept = live.now
            del states
    return kept


def _trace(model_config: Any, work: RowWork, context: ParallelContext) -> RowMemory:
    model = fake_model(model_config, context, work.dtype, TRACED_ATTENTION["flash" if work.flash else "grids"])
    if work.trained:
        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)  # so that none is made inside
    with LiveBytes() as live:
        live.ignore([*model.parameters(), *model.buffers()])
        live.ignore([p.grad for p in model.parameters() if p.grad is not None])
        forward = run_row(model, work, lambda: live.now)
    return RowMemory(forward, live.peak)


def run_row(model: LanguageModel, work: RowWork, between: Callable[[], int] = lambda: 0) -> int:
    """One row forward and backward, inside a FakeTensorMode; what `between` says before the head."""
    model.requires_grad_(False)
    make_trainable(model, work.checkpointing, frozen=not work.trained)
    ids, positions = (torch.zeros(work.tokens, dtype=torch.int64) for _ in range(2))
    targets = torch.arange(work.targets)
    inputs = model.embed(ids)
    if not work.trained:
        inputs = inputs.detach().requires_grad_()
    layout, memory = PackedLayout((work.tokens,), DEVICE), _memory(model, work, inputs)
    hidden = model.hidden(inputs, positions, layout, read=targets, memory=memory)
    result = between()
    loss = model.cross_entropy_sum(hidden, targets)
    del hidden
    loss.backward()
    return result


def _memory(model: LanguageModel, work: RowWork, inputs: Tensor) -> EncoderMemory | None:
    """What layers read, where they do; its own bytes are the connector's."""
    if not work.read_tokens:
        return None
    states = inputs.new_zeros(1).expand(2 * model.depth, work.read_tokens, model.width).requires_grad_()
    gates = inputs.new_zeros(model.depth, requires_grad=True)
    return EncoderMemory(states, gates, range(model.depth), PackedLayout((work.read_tokens,), DEVICE))
