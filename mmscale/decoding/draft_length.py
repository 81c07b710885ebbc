"""How many tokens a round of speculative decoding tries, from what drafts cost and how often they are accepted.

A round of k tokens takes k drafting steps and one pass of the verifying models over k tokens, and gives the accepted
drafts and one token more: with an acceptance a of each draft, (1 - a^k) / (1 - a) tokens (Leviathan et al. 2023, arXiv
2211.17192, eq. 1). k = 1 is plain decoding. What is chosen changes the speed, and never a token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from mmscale.decoding.stopwatch import marks

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
        self._mark = marks(self.device)
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
