"""Data sets of a stage in given shares: which examples an epoch goes over, a pure function of (seed, epoch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Numbers = Sequence[int] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Data sets that lie one after another in a stage's examples.

    In an epoch the set that is scarcest for its share is gone over once, and of every other so much as its share asks for.
    The next epoch goes on in them where the last one stopped; a set that has been gone over begins again, in another order.
    """

    sizes: tuple[int, ...]
    """Examples of each set."""
    shares: tuple[float, ...]
    """The part of each set, to be read against their sum."""
    by_tokens: bool = False
    """Shares of merged tokens, else of examples."""

    def per_epoch(self, lengths: Numbers) -> list[int]:
        """Examples of each set in an epoch; `lengths` are merged tokens of every example of the stage."""
        weights = [float(of_set.mean()) if self.by_tokens else 1.0 for of_set in self._split(lengths)]
        asked = [share / weight for share, weight in zip(self.shares, weights, strict=True)]
        passes = min(size / wanted for size, wanted in zip(self.sizes, asked, strict=True))
        return [min(size, max(1, round(passes * wanted))) for size, wanted in zip(self.sizes, asked, strict=True)]

    def epoch(self, lengths: Numbers, seed: int, epoch: int) -> np.ndarray:
        """Numbers of the examples that an epoch goes over, int64, set by set."""
        chosen: list[np.ndarray] = []
        begin = 0
        for number, (size, count) in enumerate(zip(self.sizes, self.per_epoch(lengths), strict=True)):
            first = epoch * count
            for turn in range(first // size, (first + count - 1) // size + 1):
                order = np.random.default_rng([seed, number, turn]).permutation(size)
                chosen.append(begin + order[max(0, first - turn * size) : first + count - turn * size])
            begin += size
        return np.concatenate(chosen)

    def _split(self, lengths: Numbers) -> list[np.ndarray]:
        return np.split(np.asarray(lengths), np.cumsum(self.sizes)[:-1])
