"""Many examples in one row of tokens: which example goes where (a pure function), and the tensors of a row.

Legend of shape suffixes: T merged tokens of a row, B examples in it, E encoder tokens of them, C rows that the connector makes
of these (most make one of each).
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import torch

from mmscale.config.data import PackingConfig
from mmscale.data.mixing import Mixture, Numbers
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.errors import UserError
from mmscale.transfer import to_device

IGNORED = -100
"""Label of a position that has no loss (torch.nn.functional.cross_entropy's default)."""


@dataclass(frozen=True)
class DataParallelRank:
    """This process's place among those that share the examples of a step."""

    rank: int = 0
    size: int = 1


class RowList(Sequence[list[int]]):
    """Rows of example numbers, laid end to end in one array: millions of them take few bytes."""

    def __init__(self, numbers: np.ndarray, counts: np.ndarray) -> None:
        """`numbers` int [N], row after row; `counts` int [R], examples of each row."""
        self.numbers, self.ends = numbers, counts.cumsum()

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, index: int) -> list[int]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[int]]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        end = self.ends[index]
        index %= len(self)
        row: list[int] = self.numbers[self.ends[index - 1] if index else 0 : end].tolist()
        return row


class _OpenRows:
    """Rows with room, by how much of it: the tightest that holds an example is found without a look at the others."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self.made = capacity, 0
        self._frees: list[int] = []
        """Every number of free slots that some row has, ascending."""
        self._rows: dict[int, list[int]] = {}
        """Free slots -> heap of the rows that have so many."""

    def put(self, length: int) -> int:
        """The row that an example goes into, a new one where it fits none; ties go to the row that was opened first."""
        place = bisect.bisect_left(self._frees, length)
        if place == len(self._frees):
            row, free = self.made, self.capacity
            self.made += 1
        else:
            free = self._frees[place]
            row = heapq.heappop(self._rows[free])
            if not self._rows[free]:
                del self._rows[free], self._frees[place]
        self._add(free - length, row)
        return row

    def _add(self, free: int, row: int) -> None:
        if free not in self._rows:
            bisect.insort(self._frees, free)
            self._rows[free] = []
        heapq.heappush(self._rows[free], row)

    def close(self, most_free: float) -> list[int]:
        """Take out the rows with at most so much room, in the order in which they were opened."""
        place = bisect.bisect_right(self._frees, most_free)
        full = [row for free in self._frees[:place] for row in self._rows.pop(free)]
        del self._frees[:place]
        return sorted(full)


def fill_rows(lengths: Numbers, order: Numbers, capacity: int, window: int = 2048) -> RowList:
    """Rows of at most `capacity` tokens by best fit, longest first within each window of `order`.

    Rows of a window that are under 97 % full stay open for the next window, so only the last rows of
    all are short. Deterministic; ties go to the earlier row, then to the earlier example. Takes n log n steps.
    """
    of, examples = np.asarray(lengths), np.asarray(order)
    visited, row_of = np.empty(len(examples), dtype=np.int32), np.empty(len(examples), dtype=np.int32)
    rows, closed = _OpenRows(capacity), list[int]()
    for begin in range(0, len(examples), window):
        chunk = examples[begin : begin + window]
        chunk = chunk[np.argsort(-of[chunk], kind="stable")]
        visited[begin : begin + window] = chunk
        row_of[begin : begin + window] = [rows.put(length) for length in of[chunk].tolist()]
        closed += rows.close(0.03 * capacity)
    rank = np.empty(rows.made, dtype=np.int32)
    rank[closed + rows.close(capacity)] = np.arange(rows.made, dtype=np.int32)
    row_of = rank[row_of]
    return RowList(visited[np.argsort(row_of, kind="stable")], np.bincount(row_of, minlength=rows.made))


def balance_rows(lengths: Sequence[int], chosen: Sequence[int], capacity: int, multiple: int = 1) -> list[list[int]]:
    """The fewest rows of about equal length, in a multiple of `multiple`, that hold exactly `chosen`.

    Longest example first into the shortest row (LPT, Graham 1969). Some rows may be empty when there
    are fewer examples than `multiple`.
    """
    total = sum(lengths[index] for index in chosen)
    count = max(1, -(-total // capacity))
    while True:
        count = -(-count // multiple) * multiple
        heap = [(0, k) for k in range(count)]
        rows: list[list[int]] = [[] for _ in range(count)]
        for index in sorted(chosen, key=lambda i: -lengths[i]):
            used, k = heapq.heappop(heap)
            rows[k].append(index)
            heapq.heappush(heap, (used + lengths[index], k))
        if max(used for used, _ in heap) <= capacity or count >= len(chosen):
            return rows
        count += 1


class _Balanced(Sequence[list[list[int]]]):
    """Steps of exactly so many examples; a step is balanced when it is looked at."""

    def __init__(self, lengths: np.ndarray, order: np.ndarray, packing: PackingConfig, ranks: DataParallelRank) -> None:
        self._lengths, self._order, self._packing, self._ranks = lengths, order, packing, ranks
        self._size = packing.global_batch_size or 0

    def __len__(self) -> int:
        return -(-len(self._order) // self._size)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        chosen = self._order[number * self._size : (number + 1) * self._size]
        rows = balance_rows(
            self._lengths[chosen].tolist(), range(len(chosen)), self._packing.row_tokens, self._ranks.size
        )
        return [chosen[row].tolist() for row in rows[self._ranks.rank :: self._ranks.size]]


class _Filled(Sequence[list[list[int]]]):
    """Steps of exactly so many rows, but for the last."""

    def __init__(self, rows: RowList, order: np.ndarray, count: int, ranks: DataParallelRank) -> None:
        self._rows, self._order, self._count, self._ranks = rows, order, count, ranks

    def __len__(self) -> int:
        return -(-len(self._order) // self._count)

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        size = self._ranks.size
        chosen = self._order[number * self._count : (number + 1) * self._count].tolist()
        chosen += [None] * (-len(chosen) % size)
        return [[] if row is None else self._rows[row] for row in chosen[self._ranks.rank :: size]]


class StepOrder:
    """Which rows of which examples each optimizer step sees: a pure function of (seed, epoch, layout)."""

    def __init__(
        self,
        lengths: Numbers,
        packing: PackingConfig,
        seed: int,
        ranks: DataParallelRank,
        mixture: Mixture | None = None,
    ) -> None:
        """`mixture` says which examples an epoch goes over; None is all of them. UserError where none fits a row."""
        if not len(lengths):
            raise UserError("no examples are left to train on: check the data paths, filters and limits")
        self.lengths = np.asarray(lengths, dtype=np.int32)
        longest = int(self.lengths.max())
        if longest > packing.row_tokens:
            raise UserError(
                f"an example has {longest} tokens but packing.row_tokens is {packing.row_tokens}: raise it above that"
            )
        self.packing, self.seed, self.ranks, self.mixture = packing, seed, ranks, mixture
        self._cached: tuple[int, Sequence[list[list[int]]]] | None = None
        self._counts: dict[int, int] = {}

    def epoch(self, epoch: int) -> Sequence[list[list[int]]]:
        """Steps of an epoch; a step is this rank's list of rows, a row a list of example indices."""
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._steps(epoch))
            self._counts[epoch] = len(self._cached[1])
        return self._cached[1]

    def _steps(self, epoch: int) -> Sequence[list[list[int]]]:
        generator = np.random.default_rng([self.seed, epoch])
        examples = np.arange(len(self.lengths))
        if self.mixture is not None:
            examples = self.mixture.epoch(self.lengths, self.seed, epoch)
        order = examples[generator.permutation(len(examples))].astype(np.int32)
        packing, size = self.packing, self.ranks.size
        if packing.global_batch_size is not None:
            return _Balanced(self.lengths, order, packing, self.ranks)
        assert packing.global_batch_tokens is not None
        rows = fill_rows(self.lengths, order, packing.row_tokens)
        count = max(size, packing.global_batch_tokens // packing.row_tokens // size * size)
        return _Filled(rows, generator.permutation(len(rows)), count, self.ranks)

    def step(self, number: int) -> tuple[int, int, list[list[int]]]:
        """(epoch, step within it, rows) of the `number`-th optimizer step since the start."""
        epoch = 0
        while number >= self._count(epoch):
            number -= self._count(epoch)
            epoch += 1
        return epoch, number, self.epoch(epoch)[number]

    def _count(self, epoch: int) -> int:
        return self._counts[epoch] if epoch in self._counts else len(self.epoch(epoch))

    def steps_in(self, epochs: float) -> int:
        """Optimizer steps of so many epochs, the last one counted in part."""
        whole = int(epochs)
        count = sum(len(self.epoch(epoch)) for epoch in range(whole))
        return count + round((epochs - whole) * len(self.epoch(whole)) if epochs > whole else 0)

    def fill(self, steps: int) -> float:
        """Share of token slots in use over the first `steps`: tokens / (rows x longest row of the step)."""
        used = slots = 0
        for number in range(steps):
            sums = [int(self.lengths[row].sum()) for row in self.step(number)[2]]
            used += sum(sums)
            slots += len(sums) * (max(sums) if self.packing.global_batch_size else self.packing.row_tokens)
        return used / max(slots, 1)


@dataclass
class EncoderRow:
    """Encoder tokens of the examples of a row, laid end to end."""

    token_ids: torch.Tensor
    """int64 [E]"""
    lengths: list[int]
    """Tokens of each example, B of them."""
    languages: list[str]
    states: torch.Tensor | None = None
    """[E, d_enc] where they are known already."""

    def to(self, device: torch.device) -> EncoderRow:
        states = None if self.states is None else to_device(self.states, device)
        return EncoderRow(to_device(self.token_ids, device), self.lengths, self.languages, states)


def encoder_row(examples: Sequence[TokenizedExample]) -> EncoderRow:
    """The encoder text of some examples; with their states where all have them."""
    known = [e.encoder_states for e in examples if e.encoder_states is not None]
    return EncoderRow(
        torch.tensor([i for e in examples for i in e.encoder_ids]),
        [len(e.encoder_ids) for e in examples],
        [e.language for e in examples],
        torch.cat(known) if len(known) == len(examples) else None,
    )


@dataclass(kw_only=True)
class PackedRow:
    """One row of merged tokens; no padding anywhere."""

    token_ids: torch.Tensor
    """int64 [N]: ids of the rows that are token embeddings, N = T - C - boundaries."""
    token_rows: torch.Tensor
    """int64 [N]: where they stand in the merged row."""
    position_ids: torch.Tensor
    """int64 [T], from 0 in each example."""
    labels: torch.Tensor
    """int64 [T]: the token to predict *after* each position (already shifted), or IGNORED."""
    lengths: list[int]
    """Merged tokens of each example; cumulated they are cu_seqlens."""
    encoder: EncoderRow | None = None
    prefix_lengths: tuple[int, ...] = ()
    """Rows of each example that the connector writes, boundary included."""
    encoder_rows: torch.Tensor | None = None
    """int64 [C]: where stands what the connector makes of the encoder states, example after example."""
    boundary_rows: torch.Tensor | None = None
    """int64 [B]: where the end boundary of each example stands."""
    origins: tuple[str, ...] = ()
    target_rows: torch.Tensor = field(default=None)  # type: ignore[assignment]
    """int64 [M]: positions that have a label; found where the row is made, so that no device is asked for their number."""

    def __post_init__(self) -> None:
        if self.target_rows is None:
            self.target_rows = (self.labels != IGNORED).nonzero()[:, 0]

    @property
    def target_tokens(self) -> int:
        return self.target_rows.numel()

    def to(self, device: torch.device) -> PackedRow:
        moved: dict[str, Any] = {
            name: to_device(value, device) for name, value in vars(self).items() if isinstance(value, torch.Tensor)
        }
        encoder = None if self.encoder is None else self.encoder.to(device)
        return PackedRow(**{**vars(self), **moved, "encoder": encoder})


def without_targets(row: PackedRow) -> PackedRow:
    """The same row without targets: its loss and gradients are zero."""
    return replace(row, labels=torch.full_like(row.labels, IGNORED), target_rows=row.labels.new_empty(0))


def pack(examples: Sequence[TokenizedExample], specials: SpecialTokens) -> PackedRow:
    """Lay `[BOS | encoder | boundary | prompt | target]` of each example end to end.

    The last target token is predicted but enters no input. Examples either all have encoder tokens
    or none has: ValueError.
    """
    merged = any(example.encoder_ids for example in examples)
    if merged and not all(example.encoder_ids for example in examples):
        raise ValueError("some examples of a row have encoder tokens and some have none")
    tokens: list[int] = []
    token_rows: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    encoder_rows: list[int] = []
    boundary_rows: list[int] = []
    for example in examples:
        begin = len(positions)
        prefix = example.prefix_length
        text = [*example.prompt_ids, *example.target_ids[:-1]]
        length = 1 + prefix + len(text)
        tokens += [specials.bos, *text]
        token_rows += [begin, *range(begin + 1 + prefix, begin + length)]
        if merged:
            encoder_rows += range(begin + 1, begin + prefix)
            boundary_rows.append(begin + prefix)
        positions += range(length)
        labels += [IGNORED] * (length - len(example.target_ids)) + list(example.target_ids)
    row = PackedRow(
        token_ids=torch.tensor(tokens),
        token_rows=torch.tensor(token_rows),
        position_ids=torch.tensor(positions),
        labels=torch.tensor(labels),
        lengths=[example.merged_length for example in examples],
        origins=tuple(example.origin for example in examples),
    )
    if merged:
        row.encoder, row.prefix_lengths = encoder_row(examples), tuple(example.prefix_length for example in examples)
        row.encoder_rows, row.boundary_rows = torch.tensor(encoder_rows), torch.tensor(boundary_rows)
    return row
