"""Continuous batching: finished sequences leave, waiting ones enter, and every round makes one or more tokens of each.

A round tries k tokens. The drafter proposes k - 1 of them one by one; all other models read them in one pass, and the
combined distribution chooses its own token at each place with the noise of (seed, sequence, place) that the draft was
chosen with. Up to the first place where both differ the tokens are those that plain decoding would have chosen, one after
the other, and that place's own token is one more. Caches roll back to what was kept. k = 1 is plain decoding.

Legend: B running sequences, k tokens of a round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from mmscale_kernels import Chosen
from torch import Tensor

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble, Logits
from mmscale.decoding.sampling import DrawKey, draws
from mmscale.decoding.speculation import DraftLengthController, Drafts, choose_by_noise, choose_by_rejection
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.transfer import tensor_on

Observer = Callable[["SequenceState", int, Logits], None]
"""Called with a sequence, the number of its newest token and the logits [1, v] that this was chosen from."""


@dataclass(frozen=True, eq=False)
class GenerationRequest:
    """One prompt, as each model of the ensemble reads it."""

    number: int
    """Key of its noise."""
    prompts: tuple[TokenizedExample, ...]
    config: GenerationConfig
    end: StopCriteria


@dataclass(eq=False)
class SequenceState:
    """A request and its continuation so far."""

    request: GenerationRequest
    token_ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    """Each token's log-probability under softmax(s), before temperature and truncation."""
    finished: bool = False
    ended: bool = False
    """By itself (end of text or stop text) rather than by max_new_tokens."""

    @property
    def text(self) -> str:
        return self.request.end.text(self.token_ids)

    def take(self, token: int, log_probability: float) -> None:
        """One more token; notes when it was the last one."""
        self.token_ids.append(token)
        self.log_probabilities.append(log_probability)
        self.ended = self.request.end.reached(self.token_ids)
        self.finished = self.ended or len(self.token_ids) >= self.request.config.max_new_tokens

    def draw_key(self, ahead: int) -> DrawKey:
        """The place of the token `ahead` of the next one."""
        return DrawKey(self.request.number, len(self.token_ids) + ahead, self.request.config)

    def held(self) -> list[int]:
        """Tokens of the base's prompt and of the continuation."""
        return [*self.request.prompts[0].prompt_ids, *self.token_ids]


class DecodingEngine:
    """Decodes requests that may come at any time; at most `slots` run at once."""

    def __init__(
        self,
        ensemble: Ensemble,
        slots: int,
        capacity: int,
        draft_length: DraftLengthController | None = None,
        observer: Observer | None = None,
        rejection: bool = False,
    ) -> None:
        """`capacity`: tokens of the longest prompt and its continuation, of any model. `rejection` accepts drafts by
        rejection sampling, which keeps the distribution instead of every draw.
        """
        self._choose = choose_by_rejection if rejection else choose_by_noise
        self.ensemble, self.slots, self.observer = ensemble, slots, observer
        self.draft_length = draft_length or DraftLengthController(ensemble.device, fixed=1)
        self.draft_length.disturbances = lambda: ensemble.recorded
        if ensemble.drafter is None:
            self.draft_length.fixed = 1
        self.waiting: deque[GenerationRequest] = deque()
        self.running: list[SequenceState] = []
        ensemble.reserve(slots, capacity + (self.draft_length.fixed or self.draft_length.largest))

    def add(self, request: GenerationRequest) -> None:
        self.waiting.append(request)

    @torch.inference_mode()
    def drop(self, request: GenerationRequest) -> None:
        """Forget a request, whether it waits or runs."""
        if request in self.waiting:
            self.waiting.remove(request)
        for slot, running in enumerate(self.running):
            if running.request is request:
                self._leave(slot)
                return

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    @torch.inference_mode()
    def step(self) -> list[SequenceState]:
        """Let sequences in, make a round of tokens; every sequence that got any, those that are finished included."""
        touched = self._admit()
        if self.running:
            self._round()
            touched = [*touched, *(one for one in self.running if one not in touched)]
        self._leave_finished()
        return touched

    def _admit(self) -> list[SequenceState]:
        new = [
            SequenceState(self.waiting.popleft()) for _ in range(min(len(self.waiting), self.slots - len(self.running)))
        ]
        if not new:
            return []
        prompts = list(zip(*(one.request.prompts for one in new), strict=True))
        logits = self.ensemble.admit(prompts)
        chosen = self.ensemble.choose(logits, [one.draw_key(0) for one in new], [one.held() for one in new])
        tokens, log_probabilities, _ = _read(chosen, None, 1)
        for row, (one, [token], [log_probability]) in enumerate(zip(new, tokens, log_probabilities, strict=True)):
            self._take(one, token, log_probability, logits, row)
        self.running += new
        self._leave_finished()
        return new

    def _take(self, one: SequenceState, token: int, log_probability: float, logits: Logits, row: int) -> None:
        one.take(token, log_probability)
        if self.observer is not None:
            self.observer(one, len(one.token_ids) - 1, logits.rows(tensor_on(logits.base.device, [row])))

    def _leave(self, slot: int) -> None:
        self.ensemble.leave(slot)
        last = self.running.pop()
        if slot < len(self.running):
            self.running[slot] = last

    def _leave_finished(self) -> None:
        for slot in reversed(range(len(self.running))):
            if self.running[slot].finished:
                self._leave(slot)

    def _round(self) -> None:
        room = max(one.request.config.max_new_tokens - len(one.token_ids) for one in self.running)
        wanted = self.draft_length.choose()
        # what was measured differs from rank to rank
        tries = min(wanted if self.draft_length.fixed is not None else self.ensemble.agree(wanted), room)
        last = tensor_on(self.ensemble.device, [[one.token_ids[-1]] for one in self.running])
        if self.draft_length.fixed == 1 or self.ensemble.drafter is None:
            drafts, inputs = None, last
        else:
            drafts = self._drafts(last, tries)
            inputs = torch.cat([last, drafts.tokens[:, :-1]], dim=1)
        places = [one.draw_key(i) for one in self.running for i in range(tries)]
        with self.draft_length.timed_verification(tries):
            logits = self.ensemble.verify(inputs, drafts.logits if drafts and not self.ensemble.own_drafter else None)
            chosen = self._choose(self.ensemble, logits, drafts, places, self._held(inputs))
        targets, log_probabilities, drafted = _read(chosen, drafts, tries)
        self._accept(drafted, targets, log_probabilities, logits)

    def _drafts(self, last_B1: Tensor, tries: int) -> Drafts:
        drafter = self.ensemble.drafter
        assert drafter is not None
        columns, logits, count = [last_B1], [], len(self.running)
        how = draws([one.draw_key(ahead) for ahead in range(tries) for one in self.running], self.ensemble.device)
        with self.draft_length.timed_drafts(tries):
            for ahead in range(tries):
                logits.append(drafter.extend(columns[-1]))
                columns.append(self.ensemble.draft(logits[-1], how.rows(ahead * count, (ahead + 1) * count))[:, None])
        return Drafts(torch.cat(columns[1:], dim=1), torch.stack(logits, dim=1).flatten(0, 1))

    def _held(self, inputs_Bk: Tensor) -> list[list[int]] | None:
        """What each row holds, drafts included, where anybody asks."""
        if all(one.request.config.repetition_penalty == 1 for one in self.running):
            return None
        rows = inputs_Bk.tolist()
        return [
            [*one.held(), *row[1 : i + 1]] for one, row in zip(self.running, rows, strict=True) for i in range(len(row))
        ]

    def _accept(
        self,
        drafts: Sequence[Sequence[int]] | None,
        targets: Sequence[Sequence[int]],
        log_probabilities: Sequence[Sequence[float]],
        logits: Logits,
    ) -> None:
        """Take the tokens up to the first that a draft got wrong, and forget what came after."""
        tries, accepted, looked_at, made = len(targets[0]), 0, 0, 0
        dropped = []
        for slot, one in enumerate(self.running):
            kept = 0
            for ahead, target in enumerate(targets[slot]):
                self._take(one, target, log_probabilities[slot][ahead], logits, slot * tries + ahead)
                kept += 1
                right = drafts is not None and drafts[slot][ahead] == target
                looked_at += drafts is not None
                accepted += right
                if one.finished or not right:
                    break
            made += kept
            dropped.append(tries - kept)
        self.ensemble.roll_back(dropped)
        self.draft_length.note(accepted, looked_at, len(self.running), made)


def _read(
    chosen: Chosen, drafts: Drafts | None, tries: int
) -> tuple[list[list[int]], list[list[float]], list[list[int]] | None]:
    """(tokens, their log-probabilities, drafts), [B][k] each: all that a round reads from its device, in one go."""
    parts = [chosen.token, chosen.log_probability, *([drafts.tokens.flatten()] if drafts else [])]
    # every token id fits into float64
    tokens, log_probabilities, *drafted = (
        torch.stack([part.double() for part in parts]).view(len(parts), -1, tries).tolist()
    )
    return _whole_numbers(tokens), log_probabilities, _whole_numbers(drafted[0]) if drafted else None


def _whole_numbers(values: list[list[float]]) -> list[list[int]]:
    return [[int(value) for value in row] for row in values]
