"""One model that decodes: prompts in, then any number of tokens at a time, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.graphs import GraphRecorder, GraphRunner
from mmscale.models.key_value_cache import KeyValueCache, NewTokens
from mmscale.models.merge import MergedModel
from mmscale.models.packed_layout import PackedLayout
from mmscale.transfer import tensor_on

PREFILL_TOKENS = 8192
"""Most tokens of prompts in one pass; what is longer goes in pieces."""


class ModelStepper:
    """A plain or merged model with static keys and values; B sequences run, in slots 0..B-1.

    Logits are this rank's stretch of the vocabulary, [N, v].
    """

    def __init__(
        self,
        model: MergedModel,
        prefill_tokens: int = PREFILL_TOKENS,
        vocabulary: Tensor | None = None,
        recorder: GraphRecorder | None = None,
    ) -> None:
        """`vocabulary` int64 [V]: this model's id of each token of the others, where it has ids of its own. `recorder`
        records steps of few tokens and replays them.
        """
        self.model, self.prefill_tokens, self.vocabulary = model, prefill_tokens, vocabulary
        self.cache: KeyValueCache | None = None
        self._recorder = recorder
        self._replay: GraphRunner | None = None

    @property
    def columns(self) -> int:
        """Tokens that its whole logits have a column for."""
        return self.model.language_model.vocabulary if self.vocabulary is None else len(self.vocabulary)

    def reserve(self, slots: int, capacity: int) -> None:
        """Room for so many sequences of so many tokens; nothing runs afterwards."""
        held = self.cache
        if held is not None and held.slots == slots and held.capacity >= capacity:
            held.lengths.clear()
        else:
            self.cache = self.model.language_model.new_cache(slots, capacity)
            self._replay = GraphRunner(self._forward, self.cache, self._recorder) if self._recorder else None

    def admit(self, prompts: Sequence[TokenizedExample]) -> Tensor:
        """Prefill prompts into the next slots, packed; logits [n, v] after the last token of each."""
        found, begin = [], 0
        while begin < len(prompts):
            end, total = begin + 1, prompts[begin].merged_length
            while end < len(prompts) and total + prompts[end].merged_length <= self.prefill_tokens:
                total += prompts[end].merged_length
                end += 1
            found.append(self._prefill(prompts[begin:end]))
            begin = end
        return torch.cat(found)

    def _prefill(self, prompts: Sequence[TokenizedExample]) -> Tensor:
        lm, cache = self.model.language_model, self._held
        row = pack(prompts, lm.specials).to(lm.device)
        inputs, places = self.model.merged_inputs(row), row.position_ids
        new = cache.admit(row.lengths)
        limit = self.prefill_tokens if len(prompts) == 1 else inputs.shape[0]
        first = PackedLayout(tuple(row.lengths) if len(prompts) > 1 else (min(limit, inputs.shape[0]),), inputs.device)
        last = tensor_on(lm.device, row.lengths).cumsum(0) - 1
        read = last if limit >= inputs.shape[0] else None
        hidden = lm.hidden(inputs[:limit], places[:limit], first, cache, _part(new, 0, limit), read)
        for begin in range(limit, inputs.shape[0], limit):
            end = begin + limit
            hidden = lm.hidden(inputs[begin:end], places[begin:end], None, cache, _part(new, begin, end))
        return self.logits_of(hidden if read is not None else hidden[-1:])

    def extend(self, tokens_BQ: Tensor) -> Tensor:
        """Append Q tokens to every running sequence; logits [B * Q, v] after each of them."""
        new, step = self._held.grow(tokens_BQ.shape[1]), self._replay or self._forward
        return step(tokens_BQ.flatten(), new)

    def _forward(self, tokens_N: Tensor, new: NewTokens) -> Tensor:
        lm = self.model.language_model
        tokens = tokens_N if self.vocabulary is None else self.vocabulary[tokens_N]
        return self.logits_of(lm.hidden(lm.embed(tokens), new.places, None, self._held, new))

    @property
    def recorded(self) -> int:
        """Steps that were recorded, and took longer for it."""
        return self._replay.recorded if self._replay else 0

    def logits_of(self, hidden_ND: Tensor) -> Tensor:
        """This rank's stretch of the logits [N, v] of hidden states."""
        logits = self.model.language_model.logit_part(hidden_ND)
        return logits if self.vocabulary is None else logits[:, self.vocabulary]

    def roll_back(self, dropped: Sequence[int]) -> None:
        """Forget the last tokens of each running sequence."""
        self._held.roll_back(dropped)

    def leave(self, slot: int) -> None:
        """Drop a sequence; the last one takes its slot."""
        self._held.leave(slot)

    @property
    def _held(self) -> KeyValueCache:
        assert self.cache is not None, "reserve room first"
        return self.cache


def _part(new: NewTokens, begin: int, end: int) -> NewTokens:
    """Some of the tokens of one pass; the only sequence of it where that is less than all."""
    held = new.held if new.count > 1 else min(end, new.held)
    return NewTokens(
        owners=new.owners[begin:end], places=new.places[begin:end], first=new.first, count=new.count, held=held
    )
