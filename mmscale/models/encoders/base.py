"""What every encoder family shares: a registry, loading, and packed states from a right-padded batch."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AddedToken, AutoTokenizer
from transformers.modeling_layers import GradientCheckpointingLayer

from mmscale import registry
from mmscale.config.model import EncoderConfig
from mmscale.data.packing import EncoderRow
from mmscale.errors import UserError
from mmscale.models.accounting import outlined, require_finite, require_whole
from mmscale.models.loading import DTYPES, freeze, load_model_configuration, load_pretrained
from mmscale.models.packed_layout import PackedLayout
from mmscale.models.weights import checkpoint_files
from mmscale.parallel.context import ParallelContext
from mmscale.transfer import to_device


@dataclass(frozen=True, kw_only=True)
class Family:
    """What differs between encoder families."""

    factory: Callable[[Any], Any]
    """(model config) -> the class, or Auto class, whose from_pretrained loads the checkpoint."""
    build: Callable[[Any], Any]
    """(model config) -> the same model with random weights."""
    half: Callable[[Any], Any]
    """(that model) -> the module that encodes."""
    prepare: Callable[[Any, str], None]
    """(tokenizer, ISO language): make the tokenizer use the language's code; UserError when it has none."""
    width: Callable[[Any], int]
    """(model config) -> width of its states."""
    depth: Callable[[Any], int] = lambda config: int(config.num_hidden_layers)
    """(model config) -> its layers."""
    beside: str
    """Pattern of the checkpoint's tensors that the model has no use for: another half, a head."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of from_pretrained, beside the usual."""
    model_types: tuple[str, ...] = ()
    """The `model_type` of configurations that are of this family."""


def load_encoder_config(config: EncoderConfig) -> Any:
    return load_model_configuration(config, "encoder configuration")


def family_of(config: EncoderConfig) -> str:
    """The family named in the configuration, or found by the checkpoint's model type."""
    if config.family != "auto":
        return config.family
    model_type = load_encoder_config(config).model_type
    for name in registry.names("encoders"):
        if model_type in family(name).model_types:
            return name
    raise UserError(
        f"encoder.path={config.path} has model type '{model_type}': set encoder.family to one of {registry.listed('encoders')}"
    )


def family(name: str) -> Family:
    """The family of a name; UserError naming the nearest when there is none."""
    family_of_name: Family = registry.get("encoders", name)
    return family_of_name


class FamilyTokenizer:
    """Encoder text to ids with the family's own special tokens and language code."""

    def __init__(self, tokenizer: Any, family: Family) -> None:
        self.tokenizer, self.family = tokenizer, family

    def encode(self, texts: Sequence[str], languages: Sequence[str], max_tokens: int) -> list[list[int]]:
        ids: list[list[int]] = [[] for _ in texts]
        for code in sorted(set(languages)):
            self.family.prepare(self.tokenizer, code)
            chosen = [i for i, of in enumerate(languages) if of == code]
            batch = self.tokenizer(
                [texts[i] for i in chosen],
                truncation=True,
                max_length=max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
            for i, row in zip(chosen, batch, strict=True):
                ids[i] = list(row)
        return ids


class Encoder(nn.Module):
    """A multilingual encoder, frozen until a stage that trains it lets gradients in; always in evaluation mode."""

    reads_rows_at_once = False
    """Whether a row is read in one call, which ranks make equally often, instead of by groups of about equal lengths."""

    def __init__(self, model: Any, width: int, all_layers: bool = False) -> None:
        """`all_layers`: whether its states are those of all layers."""
        super().__init__()
        self.model, self.width, self.all_layers = model, width, all_layers
        model.config.use_cache = False  # a decoder would keep keys and values, and again where it is computed again
        freeze(self)

    @property
    def is_trained(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def depth(self) -> int:
        """Its layers."""
        return int(self.model.config.num_hidden_layers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the states of one token."""
        return state_shape(self.width, self.depth if self.all_layers else None)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of its states."""
        dtype: torch.dtype = next(self.model.parameters()).dtype
        return dtype

    def train(self, mode: bool = True) -> Encoder:
        """Stays in evaluation mode, frozen or trained: no dropout, the same states wherever and however they are computed."""
        return super().train(False)

    def checkpoint_activations(self) -> None:
        """Compute a layer's activations again in the backward pass, instead of keeping them.

        Not as transformers does it, in training mode, where M2M100's layers have dropout and are left out at random.
        """
        for layer in self.model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)

    def states(self, row: EncoderRow) -> Tensor:
        """Last hidden states [E, d_enc], packed as the tokens are; of all layers [E, S, d_enc]: the embeddings, what each layer but
        the last makes, and last the last hidden states, one more than there are layers.

        Examples are encoded right-padded, about equal lengths together; padding is masked and dropped.
        """
        lengths, device = np.array(row.lengths), row.token_ids.device
        begins = lengths.cumsum() - lengths
        packed: Tensor | None = None
        whole = [list(range(len(row.lengths)))]
        for group in whole if self.reads_rows_at_once else _groups_of_equal_length(row.lengths):
            inside = PackedLayout(tuple(lengths[group].tolist()), device)
            tokens = to_device(torch.from_numpy(begins[group]), device)[inside.owners] + inside.places
            cells = inside.owners * inside.longest + inside.places
            grid = row.token_ids.new_zeros(2, len(group) * inside.longest)
            grid[0].index_copy_(0, cells, row.token_ids.index_select(0, tokens))
            grid[1].index_fill_(0, cells, 1)
            ids, mask = grid.unflatten(1, (len(group), -1))
            full = len(tokens) == ids.numel()
            padded = self._encoded(ids, None if full else mask)
            if packed is None:
                packed = padded.new_empty(len(row.token_ids), *padded.shape[2:])
            packed.index_copy_(0, tokens, padded.flatten(0, 1).index_select(0, cells))
        assert packed is not None
        return packed

    def _encoded(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """[B, L, d_enc], or [B, L, S, d_enc] of all layers."""
        if not self.all_layers:
            last: Tensor = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            return last
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = (*output.hidden_states[:-1], output.last_hidden_state)
        if len(states) != self.depth + 1:
            raise UserError(
                f"{type(self.model).__name__} of {self.depth} layers gives the states of {len(states) - 1}: its layers cannot be read"
            )
        return torch.stack(states, dim=2)


def state_shape(width: int, depth: int | None) -> tuple[int, ...]:
    """Shape of the states of one token: those of all of so many layers, or of the last alone."""
    return (width,) if depth is None else (depth + 1, width)


def _groups_of_equal_length(lengths: list[int]) -> list[list[int]]:
    """Indices by length, a new group where padding would exceed a fifth of the group's grid."""
    order = sorted(range(len(lengths)), key=lambda b: lengths[b])
    groups: list[list[int]] = []
    used = 0
    for b in order:
        if groups and used + lengths[b] >= 0.8 * lengths[b] * (len(groups[-1]) + 1):
            groups[-1].append(b)
            used += lengths[b]
        else:
            groups.append([b])
            used = lengths[b]
    return groups


def load_encoder_tokenizer(config: EncoderConfig) -> FamilyTokenizer:
    """With the tokens that the configuration adds, which are matched before the text is normalised."""
    tokenizer = load_pretrained(AutoTokenizer, config, "encoder tokenizer")
    if config.added_tokens:
        tokenizer.add_tokens([AddedToken(token, special=True) for token in config.added_tokens], special_tokens=True)
    return FamilyTokenizer(tokenizer, family(family_of(config)))


def load_encoder(config: EncoderConfig, device: torch.device, all_layers: bool = False) -> Encoder:
    """The frozen encoder of a configuration, whose states are those of all layers or of the last alone."""
    model, half = load_checkpoint(config, device)
    return Encoder(half.to(device), family(family_of(config)).width(model.config), all_layers)


def load_checkpoint(config: EncoderConfig, device: torch.device) -> tuple[Any, Any]:
    """(the model that the encoder's checkpoint holds, on the CPU; its part that encodes)."""
    chosen, model_config = family(family_of(config)), load_encoder_config(config)
    files = checkpoint_files(config)
    empty = outlined(lambda: chosen.build(model_config), files, config.path)
    require_whole(empty, files, config.path, re.compile(chosen.beside), **chosen.arguments)
    arguments = {"config": model_config, "dtype": DTYPES[config.dtype], **chosen.arguments}
    model = load_pretrained(chosen.factory(model_config), config, "encoder", **arguments)
    require_finite(model, files, config.path, ParallelContext(device=device))
    if config.added_tokens:
        _embed(model, len(load_encoder_tokenizer(config).tokenizer))
    return model, chosen.half(model)


@torch.no_grad()
def _embed(model: Any, tokens: int) -> None:
    """A row for every token: tables have spare ones, as mT5's has 12; what is missing begins as the mean of all there are."""
    table = model.get_input_embeddings().weight
    rows = table.shape[0]
    if tokens <= rows:
        return
    mean = table.float().mean(0)
    model.resize_token_embeddings(tokens, mean_resizing=False)
    model.get_input_embeddings().weight[rows:] = mean.to(table.dtype)
