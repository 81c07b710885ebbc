"""Static keys and values of sequences of unequal length, with exact rollback.

The sequences that run stand in the first slots; one that leaves is replaced by the last of them. What a rollback drops
is overwritten by what comes next.

Legend: S slots, K key/value heads, C capacity in tokens, D head width, N new tokens of all sequences.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmscale.models.packed_layout import PackedLayout
from mmscale.transfer import tensor_on

_ALIKE = 3 / 4
"""Sequences that get at least this share of the tokens of the longest are padded to it."""


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Where the tokens of one pass go, sequence by sequence."""

    owners: Tensor
    """int64 [N]: slot of each token."""
    places: Tensor
    """int64 [N]: its place in its sequence."""
    first: int
    count: int
    """Slots first..first+count-1 get tokens."""
    held: int
    """Tokens of the longest of them, these included."""
    each: tuple[int, ...] | None = None
    """How many tokens each of them gets; None where all get as many, or attend to each other alone."""
    ends: tuple[int, ...] = ()
    """Tokens of each of them, these included, where `each` is given."""
    _visible: dict[tuple[int | None, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def visible(self, window: int | None, heads: int) -> Tensor:
        """bool [count, 1, heads * Q, held]: what each of a sequence's Q tokens attends to, once for each of the query heads
        that share keys; at most the last `window` tokens. Made once for all layers.
        """
        key = (window, heads)
        if key not in self._visible:
            places = self.by_sequence(self.places)[:, :, None]
            held = torch.arange(self.held, device=places.device)
            mask = held <= places
            if window is not None:
                mask &= held > places - window
            self._visible[key] = mask.repeat(1, heads, 1)[:, None]
        return self._visible[key]

    def by_sequence(self, rows_N: Tensor) -> Tensor:
        """[N, ...] as [count, Q, ...], Q the most tokens that one gets; what stands behind a shorter one is zero."""
        if self.each is None:
            return rows_N.unflatten(0, (self.count, -1))
        longest = max(self.each)
        laid = rows_N.new_zeros(self.count * longest, *rows_N.shape[1:])
        laid[self._grid] = rows_N
        return laid.unflatten(0, (self.count, longest))

    def end_to_end(self, laid: Tensor) -> Tensor:
        """[count, Q, ...] as [N, ...] again."""
        flat = laid.flatten(0, 1)
        return flat if self.each is None else flat[self._grid]

    @functools.cached_property
    def alike(self) -> list[NewTokens]:
        """The same pass in parts of neighbouring sequences that get about as many tokens, so that little room stays empty."""
        if self.each is None:
            return [self]
        parts, begin, token = [], 0, 0
        while begin < self.count:
            end, longest = begin + 1, self.each[begin]
            while end < self.count and _ALIKE * longest <= self.each[end] <= longest:
                end += 1
            each = self.each[begin:end]
            rows = slice(token, token + sum(each))
            parts.append(
                NewTokens(
                    owners=self.owners[rows],
                    places=self.places[rows],
                    first=self.first + begin,
                    count=end - begin,
                    held=max(self.ends[begin:end]),
                    each=each,
                    ends=self.ends[begin:end],
                )
            )
            begin, token = end, rows.stop
        return parts

    @functools.cached_property
    def _grid(self) -> Tensor:
        """int64 [N]: place of each token where every sequence has room for the longest."""
        assert self.each is not None
        numbers, within = _numbered(tensor_on(self.owners.device, self.each), sum(self.each))
        return numbers * max(self.each) + within


def _numbered(counts_B: Tensor, total: int) -> tuple[Tensor, Tensor]:
    """(sequence, place in it), int64 [N] each, of the tokens of sequences that lie end to end."""
    numbers = torch.arange(len(counts_B), device=counts_B.device).repeat_interleave(counts_B, output_size=total)
    starts = counts_B.cumsum(0) - counts_B
    return numbers, torch.arange(total, device=counts_B.device) - starts[numbers]


class KeyValueCache:
    """Keys and values of at most `slots` sequences of at most `capacity` tokens, [layers][S, K, C, D]."""

    def __init__(self, layers: int, slots: int, capacity: int, device: torch.device) -> None:
        self.slots, self.capacity, self.device = slots, capacity, device
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths: list[int] = []
        """Tokens held for each running sequence."""
        self.memory: MemoryCache | None = None
        """Keys and values of their encoder texts, where layers read such."""

    def clear(self) -> None:
        """Drop all sequences; the room stays."""
        self.lengths.clear()
        if self.memory is not None:
            self.memory.lengths.clear()

    def remember(self, texts: PackedLayout, gates: Tensor, layers: Sequence[int]) -> MemoryCache:
        """Room for the encoder texts of the sequences that were admitted last, which the layers fill."""
        if self.memory is None:
            self.memory = MemoryCache(len(self.keys), self.slots, self.device)
        self.memory.admit(texts, gates, layers)
        return self.memory

    def admit(self, lengths: Sequence[int]) -> NewTokens:
        """Places of the whole prompts of new sequences, `lengths` tokens each, packed end to end."""
        first = len(self.lengths)
        self.lengths += lengths
        assert len(self.lengths) <= self.slots and max(self.lengths) <= self.capacity, "the cache is too small"
        numbers, places = _numbered(tensor_on(self.device, lengths), sum(lengths))
        return NewTokens(owners=numbers + first, places=places, first=first, count=len(lengths), held=max(lengths))

    def fork(self, other: KeyValueCache, slots: Sequence[int], lengths: Sequence[int]) -> NewTokens:
        """New sequences that begin as those in `slots` of another cache do; places of `lengths` more tokens of each."""
        first, begins = len(self.lengths), [other.lengths[slot] for slot in slots]
        self.lengths += [begin + more for begin, more in zip(begins, lengths, strict=True)]
        assert len(self.lengths) <= self.slots and max(self.lengths) <= self.capacity, "the cache is too small"
        chosen, longest = tensor_on(self.device, slots), max(begins)
        for layer in range(len(self.keys)):
            for store, beside in ((self.keys, other.keys), (self.values, other.values)):
                held = beside[layer]
                if held is not None:
                    self._room(store, layer, held)[first : len(self.lengths), :, :longest] = held[chosen, :, :longest]
        if other.memory is not None:
            self.memory = self.memory or MemoryCache(len(self.keys), self.slots, self.device)
            self.memory.fork(other.memory, slots)
        numbers, places = _numbered(tensor_on(self.device, lengths), sum(lengths))
        places += tensor_on(self.device, begins)[numbers]
        return NewTokens(
            owners=numbers + first,
            places=places,
            first=first,
            count=len(slots),
            held=max(self.lengths[first:]),
            each=tuple(lengths),
            ends=tuple(self.lengths[first:]),
        )

    def _room(self, store: list[Tensor | None], layer: int, like: Tensor) -> Tensor:
        """A layer's keys or values, made where they are not there yet, by others [., K, ., D]."""
        held = store[layer]
        if held is None:
            held = like.new_zeros(self.slots, like.shape[1], self.capacity, like.shape[3])
            store[layer] = held
        return held

    def grow(self, each: int) -> NewTokens:
        """Places of `each` more tokens of every running sequence."""
        count = len(self.lengths)
        begins = tensor_on(self.device, self.lengths)
        self.lengths = [length + each for length in self.lengths]
        assert max(self.lengths) <= self.capacity, "the cache is too small"
        places = (begins[:, None] + torch.arange(each, device=self.device)).flatten()
        owners = torch.arange(count, device=self.device).repeat_interleave(each)
        return NewTokens(owners=owners, places=places, first=0, count=count, held=max(self.lengths))

    def roll_back(self, dropped: Sequence[int]) -> None:
        """Forget the last tokens of each sequence."""
        self.lengths = [length - drop for length, drop in zip(self.lengths, dropped, strict=True)]

    def leave(self, slot: int) -> None:
        """Drop one sequence; the last one takes its slot."""
        last = len(self.lengths) - 1
        if slot != last:
            held = self.lengths[last]
            for store in (self.keys, self.values):
                for states in store:
                    if states is not None:
                        states[slot, :, :held] = states[last, :, :held]
            self.lengths[slot] = held
        self.lengths.pop()
        if self.memory is not None:
            self.memory.leave(slot)

    def write(self, layer: int, key_NKD: Tensor, value_NKD: Tensor, new: NewTokens) -> None:
        """Put the keys and values of new tokens into their places."""
        for store, rows in ((self.keys, key_NKD), (self.values, value_NKD)):
            self._room(store, layer, rows[None].transpose(1, 2))[new.owners, :, new.places] = rows

    def read(self, layer: int, new: NewTokens) -> tuple[Tensor, Tensor]:
        """Keys and values [count, K, held, D] of the sequences that got new tokens, those of these included."""
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None and values is not None
        slots = slice(new.first, new.first + new.count)
        return keys[slots, :, : new.held], values[slots, :, : new.held]


class MemoryCache:
    """Keys and values of the encoder text of each sequence, [layers][S, K, M, D] with room for M encoder tokens, which grows with
    the longest text. The slots are those of the sequences' own keys and values.
    """

    def __init__(self, layers: int, slots: int, device: torch.device) -> None:
        self.slots, self.device = slots, device
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths: list[int] = []
        """Encoder tokens of each running sequence."""
        self._gates: dict[int, Tensor] = {}
        self._room = 0
        self._new: tuple[Tensor, Tensor] | None = None
        self._masks: dict[tuple[int, int], Tensor | None] = {}

    def admit(self, texts: PackedLayout, gates: Tensor, layers: Sequence[int]) -> None:
        """New sequences behind those that run; `gates` [L] are those of the reading layers."""
        first = len(self.lengths)
        self.lengths += texts.lengths
        self._gates = dict(zip(layers, gates.unbind(), strict=True))
        self._new = texts.owners + first, texts.places
        self._changed(texts.longest)

    def gate(self, layer: int) -> Tensor | None:
        """The factor of what a layer reads; None where it reads nothing."""
        return self._gates.get(layer)

    def write(self, layer: int, key_EKD: Tensor, value_EKD: Tensor) -> None:
        """Put a layer's keys and values of the texts that were admitted last into their places."""
        assert self._new is not None
        owners, places = self._new
        for store, rows in ((self.keys, key_EKD), (self.values, value_EKD)):
            self._held(store, layer, rows[None].transpose(1, 2))[owners, :, places] = rows

    def read(self, layer: int, new: NewTokens) -> tuple[Tensor, Tensor, Tensor | None]:
        """(keys, values) [count, K, M, D] of the sequences that get new tokens, and bool [count, 1, 1, M] where they have any;
        None where all have as many."""
        keys, values, which = self.keys[layer], self.values[layer], (new.first, new.count)
        assert keys is not None and values is not None
        chosen = self.lengths[new.first : new.first + new.count]
        longest = max(chosen)
        if which not in self._masks:
            places = torch.arange(longest, device=self.device)
            alike = min(chosen) == longest
            self._masks[which] = None if alike else places < tensor_on(self.device, chosen)[:, None, None, None]
        slots = slice(new.first, new.first + new.count)
        return keys[slots, :, :longest], values[slots, :, :longest], self._masks[which]

    def fork(self, other: MemoryCache, slots: Sequence[int]) -> None:
        """New sequences with the texts of those in `slots` of another cache."""
        first, lengths = len(self.lengths), [other.lengths[slot] for slot in slots]
        self.lengths += lengths
        self._gates = other._gates
        self._changed(max(lengths))
        chosen, longest = tensor_on(self.device, slots), max(lengths)
        for layer in range(len(self.keys)):
            for store, beside in ((self.keys, other.keys), (self.values, other.values)):
                held = beside[layer]
                if held is not None:
                    self._held(store, layer, held)[first : len(self.lengths), :, :longest] = held[chosen, :, :longest]

    def leave(self, slot: int) -> None:
        """Drop one sequence; the last one takes its slot."""
        last = len(self.lengths) - 1
        for store in (self.keys, self.values):
            for states in store:
                if states is not None and slot != last:
                    states[slot] = states[last]
        self.lengths[slot] = self.lengths[last]
        self.lengths.pop()
        self._masks.clear()

    def _changed(self, longest: int) -> None:
        self._room = max(self._room, longest)
        self._masks.clear()

    def _held(self, store: list[Tensor | None], layer: int, like: Tensor) -> Tensor:
        """A layer's keys or values with room for the longest text, like others [., K, ., D]."""
        held = store[layer]
        if held is None or held.shape[2] < self._room:
            grown = like.new_zeros(self.slots, like.shape[1], self._room, like.shape[3])
            if held is not None:
                grown[:, :, : held.shape[2]] = held
            store[layer] = held = grown
        return held
