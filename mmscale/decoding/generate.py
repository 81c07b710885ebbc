"""Continuations of a list of prompts: in batches that are a function of the prompts alone, or as one stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.engine import DecodingEngine, GenerationRequest, Observer
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.speculation import DraftLengthController
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.errors import UserError

PromptSet = Sequence[TokenizedExample]


@dataclass
class Generation:
    """The continuation of one prompt."""

    prompt: int
    token_ids: list[int] = field(default_factory=list)
    finished: bool = False
    """Ended by itself (EOS or stop text) rather than by max_new_tokens."""
    text: str = ""
    log_probabilities: list[float] = field(default_factory=list)


def batches(own: PromptSet, size: int) -> list[list[int]]:
    """Prompt numbers of each batch, the longest prompts first: a function of all prompts, whoever answers which."""
    order = sorted(range(len(own)), key=lambda i: -own[i].merged_length)
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def require_room(prompts: Sequence[PromptSet], max_new_tokens: int, context_length: int) -> int:
    """Tokens of the longest prompt of any model with its continuation; UserError naming the first without room."""
    needed = 0
    for versions in zip(*prompts, strict=True):
        longest = max(version.merged_length for version in versions)
        if longest + max_new_tokens > context_length:
            raise UserError(
                f"{versions[0].origin}: a prompt of {longest} tokens and max_new_tokens="
                f"{max_new_tokens} exceed the context of {context_length}: lower max_new_tokens or shorten the prompt"
            )
        needed = max(needed, longest + max_new_tokens)
    return needed


@dataclass(frozen=True)
class PromptDecoder:
    """Continues lists of prompts with one ensemble; `prompts[m][i]` is prompt i as model m reads it."""

    ensemble: Ensemble
    end: StopCriteria
    context_length: int
    """Tokens of the longest prompt and its continuation."""
    draft_length: DraftLengthController | None = None
    observer: Observer | None = None
    share: bool = True
    """Whether the common beginning of all prompts is computed once."""

    def in_batches(
        self, prompts: Sequence[PromptSet], config: GenerationConfig, chosen: Sequence[list[int]] | None = None
    ) -> Iterator[list[Generation]]:
        """Finished generations, a batch at a time, of some of the `batches` or of all. No sequence of one batch runs
        beside one of another.

        Raises UserError naming the first prompt that leaves no room for max_new_tokens.
        """
        capacity = require_room(prompts, config.max_new_tokens, self.context_length)
        wanted = batches(prompts[0], config.batch_size) if chosen is None else chosen
        if not wanted:
            return
        engine = self._engine(max(map(len, wanted)), capacity)
        with self._sharing(prompts):
            for batch in wanted:
                for number in batch:
                    engine.add(self._request(prompts, number, config))
                finished = {one.prompt: one for one in _finished(engine)}
                yield [finished[number] for number in batch]

    def stream(
        self, prompts: Sequence[PromptSet], config: GenerationConfig, skip: frozenset[int] = frozenset()
    ) -> Iterator[Generation]:
        """Generations as they finish, of all prompts but those in `skip`, the longest first: a free slot is filled at
        once.

        Raises UserError like `in_batches`.
        """
        capacity = require_room(prompts, config.max_new_tokens, self.context_length)
        engine = self._engine(min(config.batch_size, max(1, len(prompts[0]))), capacity)
        with self._sharing(prompts):
            for number in (i for batch in batches(prompts[0], config.batch_size) for i in batch):
                if number not in skip:
                    engine.add(self._request(prompts, number, config))
            yield from _finished(engine)

    @contextmanager
    def _sharing(self, prompts: Sequence[PromptSet]) -> Iterator[None]:
        """What all prompts begin with, whoever answers which, is computed once, and kept until all are answered."""
        if self.share:
            with torch.inference_mode():
                self.ensemble.share(prompts)
        try:
            yield
        finally:
            self.ensemble.forget()

    def _engine(self, slots: int, capacity: int) -> DecodingEngine:
        return DecodingEngine(self.ensemble, slots, capacity, self.draft_length, self.observer)

    def _request(self, prompts: Sequence[PromptSet], number: int, config: GenerationConfig) -> GenerationRequest:
        return GenerationRequest(number, tuple(version[number] for version in prompts), config, self.end)


def _finished(engine: DecodingEngine) -> Iterator[Generation]:
    while engine.busy:
        for one in engine.step():
            if one.finished:
                yield Generation(one.request.number, one.token_ids, one.ended, one.text, one.log_probabilities)
