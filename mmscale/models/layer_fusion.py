"""Attention of LLM layers to what a connector made of the encoder's layers, beside their own (LayAlign, arXiv 2502.11405,
section 3.3).

Layer l adds gate_l softmax(q K' / sqrt(D)) V' to what its output projection reads: q are its own rotated queries, K' and V' what
its own k_proj and v_proj make of the states that the connector has for it. The encoder's tokens have no positions there, and
padding has no part: the authors' code attends to that too.

Legend: T tokens of the LLM, E of the encoder, L reading layers, H heads, K key/value heads, D head width, W the LLM's width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmscale.errors import UserError
from mmscale.models.attention import held_attention
from mmscale.models.cross_attention import packed_cross_attention
from mmscale.models.key_value_cache import KeyValueCache, MemoryCache, NewTokens
from mmscale.models.packed_layout import PackedLayout
from mmscale.parallel.regions import Regions

_PROJECTIONS = {"q_proj", "k_proj", "v_proj", "o_proj"}


@dataclass(frozen=True)
class EncoderMemory:
    """What the layers of an LLM read of the encoder texts of a packed row."""

    states: Tensor
    """[2 L, E, W]: those of which keys are made, and those of values, of one layer after the other."""
    gates: Tensor
    """[L]"""
    layers: Sequence[int]
    """Numbers of the reading layers."""
    layout: PackedLayout
    """The encoder tokens of each sequence."""

    def entered(self, regions: Regions) -> EncoderMemory:
        """The same inside of layers that are cut over ranks, each of which sees the gradient of its heads."""
        return replace(self, states=regions.beside(self.states), gates=regions.copy(self.gates))


@dataclass(frozen=True)
class FusedAttention:
    """What attention adds in a pass of which the encoder's states are given."""

    memory: EncoderMemory
    queries: PackedLayout
    """The LLM's tokens of each sequence."""
    kept: MemoryCache | None = None
    """Where keys and values are kept for the tokens that follow."""
    _numbers: dict[int, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_numbers", {layer: i for i, layer in enumerate(self.memory.layers)})

    def __call__(self, module: Any, query_THD: Tensor, scaling: float) -> Tensor | None:
        """[T, H, D] to add to a layer's attention, or None where the layer reads nothing."""
        layer = int(module.layer_idx)
        if layer not in self._numbers:
            return None
        key, value = self.keys_and_values(module, query_THD.shape[-1])
        if self.kept is not None:
            self.kept.write(layer, key, value)
        read = packed_cross_attention(query_THD, key, value, self.queries, self.memory.layout, scaling)
        return self.memory.gates[self._numbers[layer]] * read

    def keys_and_values(self, module: Any, width: int) -> tuple[Tensor, Tensor]:
        """[E, K, D] each, which a layer that reads makes of its states; D is `width`."""
        number = 2 * self._numbers[int(module.layer_idx)]
        key, value = (
            module.k_proj(self.memory.states[number, None]),
            module.v_proj(self.memory.states[number + 1, None]),
        )
        return key[0].unflatten(-1, (-1, width)), value[0].unflatten(-1, (-1, width))


@dataclass(frozen=True)
class HeldAttention:
    """What attention adds to new tokens of sequences whose keys and values of encoder tokens are kept."""

    memory: MemoryCache
    new: NewTokens

    def __call__(self, module: Any, query_NHD: Tensor, scaling: float) -> Tensor | None:
        """[N, H, D] to add to a layer's attention, or None where the layer reads nothing."""
        layer, parts = int(module.layer_idx), self.new.alike
        gate = self.memory.gate(layer)
        if gate is None:
            return None
        queries = query_NHD.split([part.owners.shape[0] for part in parts])
        read = [
            held_attention(own, *self.memory.read(layer, part), part, scaling)
            for own, part in zip(queries, parts, strict=True)
        ]
        return gate * torch.cat(read)


def fused(
    memory: EncoderMemory | None, layout: PackedLayout | None, cache: KeyValueCache | None, new: NewTokens | None
) -> FusedAttention | HeldAttention | None:
    """What a pass adds: of states that are given with it, or that a cache keeps; None where there is neither."""
    if memory is not None:
        assert layout is not None, "the encoder's states come with the first tokens of their sequences"
        kept = None
        if cache is not None:
            assert new is not None
            kept = cache.remember(memory.layout, memory.gates, memory.layers)
        return FusedAttention(memory, layout, kept)
    if cache is None or cache.memory is None:
        return None
    assert new is not None
    return HeldAttention(cache.memory, new)


def require_fusable(causal_lm: Any) -> None:
    """UserError where the layers of a model are not of the kind that the authors add to: projections of queries, keys, values and
    outputs, and nothing between these that queries alone would go through."""
    name, layers = type(causal_lm).__name__, getattr(causal_lm.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(f"{name} has no list of layers: LayAlign is for models like LLaMA and Mistral")
    for layer in layers:
        own = getattr(layer, "self_attn", nn.Module())
        parts = {child for child, module in own.named_children() if next(module.parameters(), None) is not None}
        if parts != _PROJECTIONS:
            differing = ", ".join(sorted(parts ^ _PROJECTIONS))
            raise UserError(
                f"the attention of {name} differs by {differing} from q_proj, k_proj, v_proj and o_proj alone: LayAlign is for "
                f"models like LLaMA and Mistral"
            )
        if getattr(own.o_proj, "bias", None) is not None:
            raise UserError(f"{name} has a bias in o_proj: LayAlign is for models like LLaMA and Mistral")
