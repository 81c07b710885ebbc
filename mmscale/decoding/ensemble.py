"""What decodes: models with their keys and values, one alone or a base that an expert and an anti-expert steer.

Proxy-tuning (Liu et al. 2024, arXiv 2401.08565, eq. 1): s = base + alpha (expert - anti-expert). The models may read
different prompts; they share the continuation. One of them, or another, may draft.

Legend: N rows, B running sequences, Q new tokens of each, V entries of the vocabulary, v those that this rank holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from mmscale_kernels import Chosen, Draws, Parts, proxy_choose
from torch import Tensor

from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.graphs import GraphRecorder, GraphRunner
from mmscale.decoding.prefix import LEAST_SHARED_TOKENS, SharedPrefix, common_prefix
from mmscale.decoding.sampling import DrawKey, draws, penalised
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
        if recorder is not None and model.layers_read:
            raise ValueError("a recording reads fixed memory, and that of encoder texts grows with them")
        self.model, self.prefill_tokens, self.vocabulary = model, prefill_tokens, vocabulary
        self.cache: KeyValueCache | None = None
        self._shared: SharedPrefix | None = None
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
            held.clear()
        else:
            self.cache = self.model.language_model.new_cache(slots, capacity)
            self._replay = GraphRunner(self._forward, self.cache, self._recorder) if self._recorder else None

    def release(self) -> None:
        """Give back the room, and what was recorded in it; nothing runs before it is reserved again."""
        self.cache = self._replay = None

    def share(self, prompts: Sequence[TokenizedExample]) -> None:
        """Compute what all of these prompts begin with, once, for those that are admitted from now on, where that is more than
        little. The weights must not change before the next call."""
        self._shared = None
        length = common_prefix(prompts)
        if length >= LEAST_SHARED_TOKENS and len(prompts) > 1:
            first = prompts[0]
            ids = first.prompt_ids[: length - 1 - first.prefix_length]
            cache = self.model.language_model.new_cache(1, length)
            self._prefill([replace(first, prompt_ids=ids, target_ids=())], cache)
            self._shared = SharedPrefix(first.encoder_ids, ids, length, cache)

    def forget(self) -> None:
        """Compute prompts whole from now on: what was shared is that of weights that may change."""
        self._shared = None

    @property
    def shared_tokens(self) -> int:
        """Tokens that are computed already of every prompt that begins as those of the last `share` do."""
        return 0 if self._shared is None else self._shared.length

    def admit(self, prompts: Sequence[TokenizedExample]) -> Tensor:
        """Prefill prompts into the next slots, packed; logits [n, v] after the last token of each."""
        known = self._shared is not None and all(map(self._shared.begins, prompts))
        lengths = [one.merged_length - (self.shared_tokens if known else 0) for one in prompts]
        logits, begin = [], 0
        while begin < len(prompts):
            end, total = begin + 1, lengths[begin]
            while end < len(prompts) and total + lengths[end] <= self.prefill_tokens:
                total += lengths[end]
                end += 1
            logits.append(self._prefill(prompts[begin:end], self._held, self._shared if known else None))
            begin = end
        return torch.cat(logits)

    def _prefill(
        self, prompts: Sequence[TokenizedExample], cache: KeyValueCache, shared: SharedPrefix | None = None
    ) -> Tensor:
        lm = self.model.language_model
        memory = None
        if shared is None:
            row = pack(prompts, lm.specials).to(lm.device)
            (inputs, memory), lengths = self.model.merged_inputs(row), row.lengths
            new = cache.admit(lengths)
        else:
            inputs, lengths = self._behind(shared, prompts)
            new = cache.fork(shared.cache, [0] * len(prompts), lengths)
        limit = self.prefill_tokens if len(prompts) == 1 else inputs.shape[0]
        first = PackedLayout(tuple(lengths) if len(prompts) > 1 else (min(limit, inputs.shape[0]),), inputs.device)
        last = tensor_on(lm.device, lengths).cumsum(0) - 1
        read, layout = (last if limit >= inputs.shape[0] else None), (first if shared is None else None)
        hidden = lm.hidden(inputs[:limit], new.places[:limit], layout, cache, _part(new, 0, limit), read, memory)
        for begin in range(limit, inputs.shape[0], limit):
            end = begin + limit
            hidden = lm.hidden(inputs[begin:end], new.places[begin:end], None, cache, _part(new, begin, end))
        return self.logits_of(hidden if read is not None else hidden[-1:])

    def _behind(self, shared: SharedPrefix, prompts: Sequence[TokenizedExample]) -> tuple[Tensor, list[int]]:
        """Input rows [N, D] of what stands behind a shared prefix in each prompt, and how many each has."""
        lm, lengths = self.model.language_model, [one.merged_length - shared.length for one in prompts]
        if not shared.encoder_ids:
            ids = [token for one in prompts for token in one.prompt_ids[len(shared.prompt_ids) :]]
            return lm.embed(tensor_on(lm.device, ids)), lengths
        row = pack(prompts, lm.specials).to(lm.device)
        return self.model.merged_inputs(row).rows[row.position_ids >= shared.length], lengths

    def continued(self, slots: Sequence[int], targets: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states [N, D] of the tokens of targets, end to end, each behind the sequence in its slot; the sequences
        stay as they are. Targets may be behind the same sequence; the tokens are named by the others' ids."""
        lm, lengths = self.model.language_model, [len(ids) for ids in targets]
        longest = max(self._held.lengths[slot] + more for slot, more in zip(slots, lengths, strict=True))
        cache = lm.new_cache(len(slots), longest)
        new = cache.fork(self._held, slots, lengths)
        tokens = self.own_ids(tensor_on(lm.device, [token for ids in targets for token in ids]))
        return lm.hidden(lm.embed(tokens), new.places, None, cache, new)

    def extend(self, tokens_BQ: Tensor) -> Tensor:
        """Append Q tokens to every running sequence; logits [B * Q, v] after each of them."""
        new, step = self._held.grow(tokens_BQ.shape[1]), self._replay or self._forward
        return step(tokens_BQ.flatten(), new)

    def _forward(self, tokens_N: Tensor, new: NewTokens) -> Tensor:
        lm = self.model.language_model
        return self.logits_of(lm.hidden(lm.embed(self.own_ids(tokens_N)), new.places, None, self._held, new))

    def own_ids(self, tokens_N: Tensor) -> Tensor:
        """This model's ids of tokens that are named by the others' ids."""
        return tokens_N if self.vocabulary is None else self.vocabulary[tokens_N]

    @property
    def records(self) -> bool:
        """Whether its steps are recorded and replayed, where they can be."""
        return self._recorder is not None

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
    if begin == 0 and end >= new.owners.shape[0]:
        return new
    held = new.held - max(0, new.owners.shape[0] - end)
    return NewTokens(owners=new.owners[begin:end], places=new.places[begin:end], first=new.first, count=1, held=held)


@dataclass(frozen=True)
class Logits:
    """Logits of N rows by each model; `first` is the token of the base's first column on this rank."""

    base: Tensor
    expert: Tensor | None = None
    antiexpert: Tensor | None = None
    first: int = 0

    def rows(self, chosen: Tensor) -> Logits:
        """Some of the rows (int64 indices)."""
        expert, antiexpert = (None if part is None else part[chosen] for part in (self.expert, self.antiexpert))
        return Logits(self.base[chosen], expert, antiexpert, self.first)


class Ensemble:
    """Models that decode together; all of them hold the same continuations."""

    def __init__(
        self,
        base: ModelStepper,
        steering: tuple[ModelStepper, ModelStepper] | None = None,
        alpha: float = 1.0,
        drafter: ModelStepper | None = None,
    ) -> None:
        """`steering` are expert and anti-expert. Drafts come from `drafter`, else from the expert."""
        self.base, self.steering, self.alpha = base, steering, alpha
        self.own_drafter = drafter
        self.drafter = drafter or (steering[0] if steering else None)
        lm = base.model.language_model
        self.device, self.group = lm.device, lm.vocabulary_group
        self.vocabulary = min(lm.tokens if steering else lm.vocabulary, *(model.columns for model in self.models))
        """Tokens that every model has: embeddings of one tokenizer are padded to different numbers of rows (Qwen2.5). A row
        that is no token takes no part in a steered choice; alone, a model chooses among all of its rows, as it does elsewhere."""
        self._first = lm.first_token

    @property
    def models(self) -> list[ModelStepper]:
        """Base, expert, anti-expert, drafter: those that there are, in the order of a request's prompts."""
        return [self.base, *(self.steering or ()), *([self.own_drafter] if self.own_drafter else [])]

    @property
    def scoring(self) -> list[ModelStepper]:
        """Those whose logits make the next token's distribution: base, expert, anti-expert."""
        return [self.base, *(self.steering or ())]

    @property
    def one_vocabulary(self) -> bool:
        """Whether a token has the same id in every model."""
        return all(model.vocabulary is None for model in self.models)

    @property
    def recorded(self) -> int:
        """Steps of any model that were recorded, and took longer for it."""
        return sum(model.recorded for model in self.models)

    def reserve(self, slots: int, capacity: int) -> None:
        for model in self.models:
            model.reserve(slots, capacity)

    def release(self) -> None:
        """Give back the room of all models."""
        for model in self.models:
            model.release()

    def share(self, prompts: Sequence[Sequence[TokenizedExample]]) -> int:
        """Compute what prompts begin with once; `prompts[m]` are theirs as model m reads them. Tokens of it in the base."""
        for model, own in zip(self.models, prompts, strict=True):
            model.share(own)
        return self.base.shared_tokens

    def forget(self) -> None:
        """Compute prompts whole from now on."""
        for model in self.models:
            model.forget()

    def admit(self, prompts: Sequence[Sequence[TokenizedExample]]) -> Logits:
        """Prefill new sequences; `prompts[m]` are theirs as model m reads them."""
        logits = [model.admit(own) for model, own in zip(self.models, prompts, strict=True)]
        return self.side_by_side(logits)

    def side_by_side(self, logits: Sequence[Tensor]) -> Logits:
        """The logits of the models in order, over the tokens that all have; expert and anti-expert cut to the base's columns here."""
        base = self._shared(logits[0])
        if self.steering is None:
            return Logits(base, first=self._first)
        expert, antiexpert = (
            self._beside(base, _whole(model, part)) for model, part in zip(self.steering, logits[1:3], strict=True)
        )
        return Logits(base, expert, antiexpert, self._first)

    def _shared(self, base_Nv: Tensor) -> Tensor:
        """The base's columns without those of tokens that another model lacks.

        Where ranks hold stretches of it these stay as wide as they are, and such tokens are made impossible.
        """
        begin = self.vocabulary - self._first
        if begin >= base_Nv.shape[1]:
            return base_Nv
        if self.group is None:
            return base_Nv[:, :begin]
        shared = base_Nv.clone()
        shared[:, max(begin, 0) :] = torch.finfo(base_Nv.dtype).min
        return shared

    def _beside(self, base_Nv: Tensor, whole_NV: Tensor) -> Tensor:
        """A small model's columns of the base's tokens here; zeros for those that it lacks."""
        width = base_Nv.shape[1]
        columns = whole_NV[:, self._first : self._first + width]
        return columns if columns.shape[1] == width else torch.nn.functional.pad(columns, (0, width - columns.shape[1]))

    def roll_back(self, dropped: Sequence[int]) -> None:
        for model in self.models:
            model.roll_back(dropped)

    def leave(self, slot: int) -> None:
        for model in self.models:
            model.leave(slot)

    def verify(self, tokens_BQ: Tensor, drafted_by_expert: Tensor | None) -> Logits:
        """Logits [B * Q] after each token; the expert's are given where it made the drafts."""
        logits = [self.base.extend(tokens_BQ)]
        if self.steering is not None:
            expert, antiexpert = self.steering
            logits.append(expert.extend(tokens_BQ) if drafted_by_expert is None else drafted_by_expert)
            logits.append(antiexpert.extend(tokens_BQ))
        return self.side_by_side(logits)

    def choose(self, logits: Logits, places: Sequence[DrawKey], held: Sequence[Sequence[int]] | None = None) -> Chosen:
        """A token of every row, the same on every rank. `held` are each row's tokens so far, for a repetition penalty."""
        how = draws(places, self.device)
        parts = Parts(logits.base, logits.expert, logits.antiexpert, self.alpha)
        penalty = held is not None and any(place.config.repetition_penalty != 1 for place in places)
        if not penalty and not (how.truncated and self.group is not None):
            return proxy_choose(parts, how, logits.first, self.group)
        combined = self.combined(logits)
        if penalty and held is not None:
            combined = penalised(combined, held, [place.config for place in places])
        return proxy_choose(Parts(combined), how)

    def draft(self, logits_Nv: Tensor, how: Draws) -> Tensor:
        """The drafter's own choice with the noise of the final one: where both agree the draft is accepted."""
        return proxy_choose(Parts(self.drafted(logits_Nv)), how).token

    def drafted(self, logits_Nv: Tensor) -> Tensor:
        """The drafter's logits [N, V], cut to the tokens that all models have."""
        assert self.drafter is not None
        return _whole(self.drafter, logits_Nv)[:, : self.vocabulary]

    def combined(self, logits: Logits) -> Tensor:
        """s [N, V] on every rank, V the tokens that all models have."""
        parts = Parts(logits.base, logits.expert, logits.antiexpert, self.alpha)
        return self.base.model.language_model.whole_logits(parts.combined())[:, : self.vocabulary]

    def agree(self, number: int) -> int:
        """The first rank's number on all ranks that share the base; they have to go the same way."""
        if self.group is None:
            return number
        value = tensor_on(self.device, [number])
        torch.distributed.broadcast(value, group=self.group, group_src=0)
        return int(value)


def _whole(model: ModelStepper, part_Nv: Tensor) -> Tensor:
    return model.model.language_model.whole_logits(part_Nv)
