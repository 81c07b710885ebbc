"""Ways of running a MindMerger step on the same weights and examples: the authors', and ours one part at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from mmscale_kernels.adapter import adapter_merge_reference
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmscale.data.packing import IGNORED, balance_rows, pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.models import attention, language_model
from mmscale.models.assembly import make_trainable
from mmscale.models.connectors import mlp
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.training.objective import CausalObjective

from .shapes import as_transformers_runs_it
from .step_setup import StepSetup
from .step_work import merged_length

Examples = Sequence[TokenizedExample]
AUTHORS_2, AUTHORS_8 = "as the authors train, micro-batch 2", "as the authors train, micro-batch 8"
OURS = "+ cached encoder states"
SHORT_ROW = 1024
"""Tokens of the shorter rows, where no example is longer."""


@dataclass(frozen=True)
class StepWay:
    """A step is cut into parts, whose gradients add up."""

    name: str
    parts: Callable[[Examples], list[list[TokenizedExample]]]
    """Examples -> micro-batches or rows."""
    loss_sum: Callable[[Examples], Tensor]
    """Summed loss of a part's target tokens."""
    cached: bool = False
    """Whether encoder states come with the examples."""

    def step(self, examples: Examples) -> Tensor:
        """Forward and backward of all parts; the mean loss of the step's target tokens."""
        targets = sum(len(example.target_ids) for example in examples)
        losses = []
        for part in self.parts(examples):
            loss = self.loss_sum(part) / targets
            loss.backward()
            losses.append(loss.detach())
        return torch.stack(losses).sum()


class Padded:
    """A micro-batch padded to the left as MindMerger's authors run it: the encoder in every step, padding sorted to the
    left, logits of every position, everything in the LLM's dtype without autocast.

    `cut` leaves out the columns that are padding in every row, as they do. The loss is their mean, times its target tokens:
    they average the means of micro-batches, whatever these hold. Their encoder's dropout is left out.
    """

    def __init__(self, setup: StepSetup, device: torch.device, attends: str, cut: bool) -> None:
        self.model, self.specials, self.device, self.cut = setup.model, setup.specials, device, cut
        self.llm = as_transformers_runs_it(setup.model.language_model.causal_lm, attends)

    def __call__(self, examples: Examples) -> Tensor:
        inputs, kept, labels = self._squeezed(*self._merged(examples))
        loss: Tensor = self.llm(inputs_embeds=inputs, attention_mask=kept, labels=labels, use_cache=False).loss
        loss.item()  # their loop adds it up on the host
        return loss * sum(len(example.target_ids) for example in examples)

    def _merged(self, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
        """(embeddings [B, L, D], 1 where a token is [B, L], labels [B, L])."""
        assert self.model.encoder is not None and isinstance(self.model.connector, mlp.MLPConnector)
        ids, mask = self._grid([example.encoder_ids for example in examples])
        with torch.no_grad():
            states = self.model.encoder.model(input_ids=ids, attention_mask=mask, output_hidden_states=True)[0]
        embed, one = self.llm.get_input_embeddings(), mask.new_ones(len(examples), 1)
        start = embed(torch.full_like(one, self.specials.bos))
        mapped = self._mapped(states, start.dtype)
        boundary = self.model.connector.end_boundary.to(start.dtype).expand(len(examples), 1, -1)
        prompt, prompt_mask = self._grid([example.prompt_ids for example in examples])
        target, target_mask = self._grid([example.target_ids for example in examples])
        inputs = torch.cat([start, mapped, boundary, embed(prompt), embed(target)], 1)
        kept = torch.cat([one, mask, one, prompt_mask, target_mask], 1)
        labels = torch.full_like(kept, IGNORED)
        labels[:, -target.shape[1] :] = target.masked_fill(target_mask == 0, IGNORED)
        return inputs, kept, labels

    def _mapped(self, states: Tensor, dtype: torch.dtype) -> Tensor:
        """The mapping in the LLM's dtype, as DeepSpeed holds it beside float32 master weights."""
        assert isinstance(self.model.connector, mlp.MLPConnector)
        one, two = self.model.connector.mlp.linear1, self.model.connector.mlp.linear2
        hidden = torch.relu(F.linear(states.to(dtype), one.weight.to(dtype), one.bias.to(dtype)))
        return F.linear(hidden, two.weight.to(dtype), two.bias.to(dtype))

    def _squeezed(self, inputs: Tensor, kept: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Padding first, in each row; then without the columns that hold nothing else."""
        order = kept.sort(dim=1, stable=True).indices
        inputs = inputs.gather(1, order[..., None].expand_as(inputs))
        kept, labels = kept.gather(1, order), labels.gather(1, order)
        if self.cut:
            columns = kept.any(0)
            inputs, kept, labels = inputs[:, columns], kept[:, columns], labels[:, columns]
        return inputs, kept, labels

    def _grid(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """(ids, 1 where one is), right-padded: int64 [B, L]."""
        values = [torch.tensor(list(row), dtype=torch.int64) for row in rows]
        ids = pad_sequence(values, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in values], batch_first=True)
        return ids.to(self.device), mask.to(self.device)


def micro_batches(size: int) -> Callable[[Examples], list[list[TokenizedExample]]]:
    return lambda examples: [list(examples[i : i + size]) for i in range(0, len(examples), size)]


def rows_of(tokens: int) -> Callable[[Examples], list[list[TokenizedExample]]]:
    """Rows of about equal length, as the trainer packs a step of so many examples."""

    def rows(examples: Examples) -> list[list[TokenizedExample]]:
        lengths = [merged_length(example) for example in examples]
        return [[examples[i] for i in row] for row in balance_rows(lengths, range(len(examples)), tokens) if row]

    return rows


def sharing_weights(model: MergedModel, attends: str | None = None) -> MergedModel:
    """Another model of ours on the same weights, perhaps with another attention."""
    ours = model.language_model
    theirs = as_transformers_runs_it(ours.causal_lm, attends or ours.config._attn_implementation)
    return MergedModel(LanguageModel(theirs, None, ours.specials), model.encoder, model.connector)


def with_layers_of_transformers(model: MergedModel) -> MergedModel:
    """The same weights, in norms and MLPs as transformers writes them."""
    with mock.patch.object(language_model, "make_memory_efficient"):
        return sharing_weights(model)


@dataclass(frozen=True)
class Packed:
    """Loss of packed rows as the trainer runs them; bfloat16 under autocast."""

    specials: SpecialTokens
    device: torch.device
    dtype: torch.dtype

    def _precision(self) -> Any:
        low = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype) if low else contextlib.nullcontext()

    def ours(self, model: MergedModel) -> Callable[[Examples], Tensor]:
        objective = CausalObjective(model)

        def loss_sum(examples: Examples) -> Tensor:
            with self._precision():
                return objective.loss_sum(pack(examples, self.specials).to(self.device))

        return loss_sum

    def with_all_logits(self, model: MergedModel) -> Callable[[Examples], Tensor]:
        def loss_sum(examples: Examples) -> Tensor:
            row = pack(examples, self.specials).to(self.device)
            with self._precision():
                logits = model.language_model.logits(model.hidden(row))
            return F.cross_entropy(logits.float(), row.labels, ignore_index=IGNORED, reduction="sum")

        return loss_sum

    def by_parts(self, model: MergedModel) -> Callable[[Examples], Tensor]:
        """Merged by concatenation and a scatter instead of one op; logits of every position."""
        whole = self.with_all_logits(model)

        def loss_sum(examples: Examples) -> Tensor:
            with mock.patch.object(mlp, "adapter_merge", adapter_merge_reference):
                return whole(examples)

        return loss_sum


def ways_of(setup: StepSetup, device: torch.device, row_tokens: int) -> list[StepWay]:
    """The authors' own way is the first; ours in rows of at most `row_tokens` tokens follow."""
    model = setup.model
    model.requires_grad_(False)
    make_trainable(model.language_model, False, frozen=True)
    setup.connector.requires_grad_(True)
    authors = Padded(setup, device, "sdpa", cut=True)
    packed, rows = Packed(setup.specials, device, setup.dtype), rows_of(row_tokens)
    ours = packed.ours(model)
    return [
        StepWay(AUTHORS_2, micro_batches(2), authors),
        StepWay(AUTHORS_8, micro_batches(8), authors),
        StepWay(
            "one padded batch, eager", lambda examples: [list(examples)], Padded(setup, device, "eager", cut=False)
        ),
        StepWay("+ packed rows", rows, packed.by_parts(with_layers_of_transformers(model))),
        StepWay("+ norms and SwiGLUs that keep less", rows, packed.by_parts(model)),
        StepWay("+ mapping and merge in one op", rows, packed.with_all_logits(model)),
        StepWay("+ loss and last layer on label rows", rows, ours),
        StepWay(OURS, rows, ours, cached=True),
        *_variants(setup, packed, row_tokens, ours),
    ]


def _variants(setup: StepSetup, packed: Packed, row_tokens: int, ours: Callable[[Examples], Tensor]) -> list[StepWay]:
    """All of it, and one thing otherwise."""
    rows, model = rows_of(row_tokens), setup.model
    longest = max(merged_length(example) for examples in setup.plain for example in examples)
    again = sharing_weights(model)
    make_trainable(again.language_model, True, frozen=True)
    half = max(row_tokens // 2, longest)
    variants = [
        StepWay("all that, in rows of half the length", rows_of(half), ours, cached=True),
        StepWay("all that, in rows as short as may be", rows_of(max(SHORT_ROW, longest)), ours, cached=True),
        StepWay("all that, activations computed again", rows, packed.ours(again), cached=True),
    ]
    auto = model.language_model.config._attn_implementation
    if auto != attention.PACKED_SDPA and packed.dtype != torch.float32:
        grids = sharing_weights(model, attention.PACKED_SDPA)
        variants.append(StepWay("all that, attention packed_sdpa", rows, packed.ours(grids), cached=True))
    return variants
