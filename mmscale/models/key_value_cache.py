"""Static keys and values of sequences of unequal length, with exact rollback.

The sequences that run stand in the first slots; one that leaves is replaced by the last of them. What a rollback drops
is overwritten by what comes next.

Legend: S slots, K key/value heads, C capacity in tokens, D head width, N new tokens of all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmscale.transfer import tensor_on


@dataclass(frozen=True, kw_only=True)
class NewTokens:
    """Where the tokens of one pass go, sequence by sequence."""

    owners: Tensor
    """int64 [N]: slot of each token."""
    places: Tensor
    """int64 [N]: its place in its sequence."""
    first: int
    count: int
    """Slots first..first+count-1 get tokens, each as many where they attend to what is held already."""
    held: int
    """Tokens of the longest of them, these included."""
    _visible: dict[tuple[int | None, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    def visible(self, window: int | None, heads: int) -> Tensor:
        """bool [count, 1, heads * Q, held]: what each of a sequence's Q tokens attends to, once for each of the query heads
        that share keys; at most the last `window` tokens. Made once for all layers.
        """
        key = (window, heads)
        if key not in self._visible:
            places = self.places.unflatten(0, (self.count, -1))[:, :, None]
            held = torch.arange(self.held, device=places.device)
            mask = held <= places
            if window is not None:
                mask &= held > places - window
            self._visible[key] = mask.repeat(1, heads, 1)[:, None]
        return self._visible[key]


class KeyValueCache:
    """Keys and values of at most `slots` sequences of at most `capacity` tokens, [layers][S, K, C, D]."""

    def __init__(self, layers: int, slots: int, capacity: int, device: torch.device) -> None:
        self.slots, self.capacity, self.device = slots, capacity, device
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.lengths: list[int] = []
        """Tokens held for each running sequence."""

    def admit(self, lengths: Sequence[int]) -> NewTokens:
        """Places of the whole prompts of new sequences, `lengths` tokens each, packed end to end."""
        first = len(self.lengths)
        self.lengths += lengths
        assert len(self.lengths) <= self.slots and max(self.lengths) <= self.capacity, "the cache is too small"
        counts = tensor_on(self.device, lengths)
        total = sum(lengths)
        numbers = torch.arange(len(lengths), device=self.device).repeat_interleave(counts, output_size=total)
        starts = counts.cumsum(0) - counts
        places = torch.arange(total, device=self.device) - starts[numbers]
        return NewTokens(owners=numbers + first, places=places, first=first, count=len(lengths), held=max(lengths))

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

    def write(self, layer: int, key_NKD: Tensor, value_NKD: Tensor, new: NewTokens) -> None:
        """Put the keys and values of new tokens into their places."""
        for store, rows in ((self.keys, key_NKD), (self.values, value_NKD)):
            held = store[layer]
            if held is None:
                held = rows.new_zeros(self.slots, rows.shape[1], self.capacity, rows.shape[2])
                store[layer] = held
            held[new.owners, :, new.places] = rows

    def read(self, layer: int, new: NewTokens) -> tuple[Tensor, Tensor]:
        """Keys and values [count, K, held, D] of the sequences that got new tokens, those of these included."""
        keys, values = self.keys[layer], self.values[layer]
        assert keys is not None and values is not None
        slots = slice(new.first, new.first + new.count)
        return keys[slots, :, : new.held], values[slots, :, : new.held]
