"""Where this process runs programs: one pool under one configuration, and what each program gave, which is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

from mmscale.config.execution import ExecutionConfig
from mmscale.errors import UserError, told
from mmscale.execution.outcome import Outcome
from mmscale.execution.pool import Pool, shared, why_not

_KEPT_CHARACTERS = 4096
"""The end of a value is what rules read."""


class Ranks(Protocol):
    """The processes that score together, as ParallelContext is one of."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def gather(self, value: Any) -> list[Any]: ...

    def agree(self, problem: str | None) -> None: ...


class Room:
    """Programs by their text: each is run once."""

    def __init__(self, config: ExecutionConfig) -> None:
        self.config = config
        self._ready = False
        self._outcomes: dict[str, Outcome] = {}
        """program -> what it gave"""

    def require(self) -> None:
        """UserError where programs cannot be run here, which is tried once."""
        problem = None if self._ready else why_not(self.config)
        if problem is not None:
            raise UserError(problem)
        self._ready = True

    def run(self, programs: Sequence[str], ranks: Ranks | None = None) -> list[Outcome]:
        """What each program gives. Ranks that call it together with the same programs share the work, and all hold the
        first rank's outcome of each.
        """
        if ranks is None or ranks.size == 1:
            self._learn(programs)
        else:
            self._learn_together(programs, ranks)
        return [self._outcomes[program] for program in programs]

    def _learn(self, programs: Sequence[str]) -> None:
        new = [one for one in dict.fromkeys(programs) if one not in self._outcomes]
        if new:
            pool: Pool = shared(self.config)
            self._outcomes |= zip(new, map(_kept, pool.run(new)), strict=True)

    def _learn_together(self, programs: Sequence[str], ranks: Ranks) -> None:
        wanted = sorted(set(programs))
        self._exchange(wanted, ranks)
        missing = [one for one in wanted if one not in self._outcomes]
        ranks.agree(told(lambda: self._learn(missing[ranks.rank :: ranks.size])))
        self._exchange(missing, ranks)

    def _exchange(self, programs: Sequence[str], ranks: Ranks) -> None:
        mine = [asdict(self._outcomes[one]) if one in self._outcomes else None for one in programs]
        for held in reversed(ranks.gather(mine)):  # the first rank's word stands
            given = zip(programs, held, strict=True)
            self._outcomes |= {one: Outcome(**values) for one, values in given if values is not None}


def _kept(outcome: Outcome) -> Outcome:
    value = outcome.value
    return replace(outcome, printed="", value=None if value is None else value[-_KEPT_CHARACTERS:])


class _Here:
    """The room of this process."""

    room = Room(ExecutionConfig())


def set_up(config: ExecutionConfig) -> None:
    """How this process runs programs from now on."""
    if config != _Here.room.config:
        _Here.room = Room(config)


def room() -> Room:
    """The room of this process; by default a sandbox of bubblewrap."""
    return _Here.room
