"""Which part of a whole tensor a rank holds under tensor parallelism: a range along one dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Shard:
    """A range of a whole tensor. The tensor in memory may be longer in dimension 0: its end is padding."""

    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    dimension: int
    begin: int
    size: int

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Without padding."""
        return (*self.shape[: self.dimension], self.size, *self.shape[self.dimension + 1 :])

    @property
    def elements(self) -> int:
        return math.prod(self.local_shape)

    def of(self, whole: Tensor) -> Tensor:
        """This part of the whole tensor, as a view."""
        return whole.narrow(self.dimension, self.begin, self.size)


def whole_shard(shape: tuple[int, ...]) -> Shard:
    """A tensor that every rank holds whole."""
    return Shard(shape, 0, 0, shape[0]) if shape else Shard((1,), 0, 0, 1)


def even_shard(shape: tuple[int, ...], dimension: int, rank: int, size: int) -> Shard:
    """The `rank`-th of `size` parts, each as long as the longest; the last ones may be shorter, or empty."""
    length = -(-shape[dimension] // size)
    begin = min(rank * length, shape[dimension])
    return Shard(shape, dimension, begin, min(length, shape[dimension] - begin))


def mark(parameter: Tensor, shard: Shard) -> None:
    """Note on a parameter which part of the whole it is."""
    parameter.shard = shard  # type: ignore[attr-defined]


def shard_of(parameter: Tensor) -> Shard:
    """The part that a parameter is; the whole when nobody said otherwise, also where ZeRO-3 keeps a stretch of it."""
    shard: Shard | None = getattr(parameter, "shard", None)
    return shard or whole_shard(tuple(getattr(parameter, "ds_shape", parameter.shape)))


def is_sharded(parameter: Tensor) -> bool:
    """Whether tensor-parallel ranks hold different parts of it."""
    return hasattr(parameter, "shard")
