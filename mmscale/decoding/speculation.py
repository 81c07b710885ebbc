"""Speculative decoding: how many tokens a round tries, and what becomes of the drafts.

A round of k tokens takes k drafting steps and one pass of the verifying models over k tokens, and gives the accepted
drafts and one token more: with an acceptance a of each draft, (1 - a^k) / (1 - a) tokens (Leviathan et al. 2023, arXiv
2211.17192, eq. 1). k = 1 is plain decoding. How many are tried changes the speed, and never a token.

Drafts are verified so that nothing of the combined distribution is lost. By noise: draft and target are the largest of
log q + g and log p + g with one g (a Gumbel coupling): the target is what plain decoding draws, whatever was drafted. By
rejection (algorithm 1 of the same paper): a draft x is kept with probability min(1, p(x) / q(x)), else the token is drawn
from max(p - q, 0), normalised; the distribution is that of plain decoding, and drafts are accepted somewhat more often.

Legend: B sequences, k places of each, V entries of the vocabulary.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from mmscale_kernels import Chosen, Parts
from mmscale_kernels.noise import ACCEPT, RESIDUAL, gumbel, uniform
from mmscale_kernels.proxy_logits import probabilities
from torch import Tensor

from mmscale.decoding.ensemble import Ensemble, Logits
from mmscale.decoding.sampling import DrawKey, draws, penalised

CANDIDATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
_FORGET = 0.9
"""Weight of what was measured before, in running means."""
_TRY_EVERY = 32
"""Plain rounds after which two tokens are tried: costs and acceptance change with the text and the batch."""


def tokens_a_round(acceptance: float, tokens: int) -> float:
    """Expected tokens of a round that tries `tokens`."""
    if acceptance >= 1:
        return float(tokens)
    return (1 - acceptance**tokens) / (1 - acceptance)


@dataclass
class Mean:
    """A running mean that forgets."""

    value: float = 0.0
    seen: int = 0

    def add(self, value: float) -> None:
        weight = min(_FORGET, self.seen / (self.seen + 1))
        self.value = weight * self.value + (1 - weight) * value
        self.seen += 1


@dataclass
class DraftLengthController:
    """Chooses the tokens of the next round, and keeps the account of all rounds."""

    device: torch.device
    fixed: int | None = None
    """Tokens of every round; None chooses by what was measured."""
    largest: int = CANDIDATES[-1]
    drafting: Mean = field(default_factory=Mean)
    """Seconds of one drafting step."""
    verifying: dict[int, Mean] = field(default_factory=dict)
    """Tokens tried -> seconds of the pass that verifies them."""
    accepting: Mean = field(default_factory=lambda: Mean(0.8, 1))
    """Share of drafts that were accepted, of those that were looked at; before any was, a guess."""
    rounds: int = 0
    sequence_rounds: int = 0
    """Rounds, counted once for every sequence in them."""
    tokens: int = 0
    """Tokens made, of all sequences."""
    accepted: int = 0
    looked_at: int = 0
    disturbances: Callable[[], int] = lambda: 0
    """Counts what makes a step take longer than the next one like it; such steps are not measured."""

    def __post_init__(self) -> None:
        self._mark = _marks(self.device)
        self._measured: list[tuple[Any, Any, Callable[[float], None]]] = []

    def choose(self) -> int:
        """Tokens to try in the next round."""
        if self.fixed is not None:
            return self.fixed
        candidates = [k for k in CANDIDATES if k <= self.largest]
        if not self.verifying:
            return min(4, self.largest)
        best = max(candidates, key=self._speed)
        if best == 1 and self.rounds % _TRY_EVERY == 0:
            return min(2, self.largest)
        return best

    def _speed(self, tokens: int) -> float:
        """Tokens per second of a sequence."""
        measured = self.verifying.get(tokens)
        if measured is None:  # of the nearest one that was tried: as if tokens cost nothing, and it corrects itself
            measured = self.verifying[min(self.verifying, key=lambda k: abs(k - tokens))]
        seconds = tokens * self.drafting.value + measured.value
        return tokens_a_round(self.accepting.value, tokens) / max(seconds, 1e-9)

    def note(self, accepted: int, looked_at: int, sequences: int, made: int) -> None:
        """The end of a round: drafts accepted of those looked at, and tokens made, of all its sequences."""
        for begin, end, add in self._measured:
            add(begin.seconds_to(end))
        self._measured.clear()
        self.rounds += 1
        self.sequence_rounds += sequences
        self.tokens += made
        self.accepted += accepted
        self.looked_at += looked_at
        if looked_at:
            self.accepting.add(accepted / looked_at)

    @contextmanager
    def timed_drafts(self, steps: int) -> Iterator[None]:
        with self._timed(lambda seconds: self.drafting.add(seconds / steps)):
            yield

    @contextmanager
    def timed_verification(self, tokens: int) -> Iterator[None]:
        with self._timed(lambda seconds: self.verifying.setdefault(tokens, Mean()).add(seconds)):
            yield

    @contextmanager
    def _timed(self, add: Callable[[float], None]) -> Iterator[None]:
        """What is inside is measured, and added at the end of the round."""
        begin, before = self._mark(), self.disturbances()
        yield
        if self.disturbances() == before:
            self._measured.append((begin, self._mark(), add))

    def report(self) -> dict[str, float]:
        """Acceptance, and tokens per round of a sequence."""
        return {
            "acceptance": self.accepted / self.looked_at if self.looked_at else float("nan"),
            "tokens_per_round": self.tokens / self.sequence_rounds if self.sequence_rounds else float("nan"),
            "rounds": self.rounds,
        }

    def report_json(self) -> dict[str, float | None]:
        """The report without numbers that JSON does not know."""
        return {name: None if math.isnan(value) else value for name, value in self.report().items()}


@dataclass(frozen=True)
class _Now:
    """A mark where computing is waited for anyway."""

    seconds: float

    def seconds_to(self, later: _Now) -> float:
        return later.seconds - self.seconds


class _Queued:
    """A mark in the queue of a device."""

    def __init__(self, event: Any) -> None:
        self._event = event
        event.record()

    def seconds_to(self, later: _Queued) -> float:
        """Waits for the later one, where it has not passed yet."""
        later._event.synchronize()
        return float(self._event.elapsed_time(later._event)) / 1000


def _marks(device: torch.device) -> Callable[[], Any]:
    """What makes a mark in a device's queue; `begin.seconds_to(end)` is the time between two."""
    if device.type == "cpu":
        return lambda: _Now(time.perf_counter())
    event = torch.get_device_module(device).Event
    return lambda: _Queued(event(enable_timing=True))


@dataclass(frozen=True)
class Drafts:
    """What a drafter proposed."""

    tokens: Tensor
    """int64 [B, k]; the last one is read by nobody, and only tells whether it would have been accepted."""
    logits: Tensor
    """[B * k, v] that they were chosen from."""


def choose_by_noise(
    ensemble: Ensemble,
    logits: Logits,
    drafts: Drafts | None,
    places: Sequence[DrawKey],
    held: Sequence[Sequence[int]] | None,
) -> Chosen:
    """Tokens [B * k] of the combined distribution with the noise that the drafts were chosen with."""
    return ensemble.choose(logits, places, held)


def choose_by_rejection(
    ensemble: Ensemble,
    logits: Logits,
    drafts: Drafts | None,
    places: Sequence[DrawKey],
    held: Sequence[Sequence[int]] | None,
) -> Chosen:
    """Tokens [B * k]: the drafts where they are kept, else draws from what is left; plain draws without drafts."""
    if drafts is None:
        return ensemble.choose(logits, places, held)
    how = draws(places, ensemble.device)
    combined = ensemble.combined(logits)
    if held is not None:
        combined = penalised(combined, held, [place.config for place in places])
    wanted = probabilities(Parts(combined), how)
    proposed = probabilities(Parts(ensemble.drafted(drafts.logits)), how)
    draft = drafts.tokens.flatten()
    p, q = (probabilities.gather(1, draft[:, None])[:, 0] for probabilities in (wanted, proposed))
    kept = uniform(how.seed, how.row, how.position, ACCEPT) * q < p
    left = (wanted - proposed).clamp_(min=0)
    noise = gumbel(how.seed, how.row, how.position, 0, left.shape[1], RESIDUAL)
    token = torch.where(kept, draft, (left.log() + noise).argmax(-1))
    log_sum_exp = combined.logsumexp(-1)
    return Chosen(token, combined.gather(1, token[:, None])[:, 0] - log_sum_exp, log_sum_exp)
