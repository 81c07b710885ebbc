"""States of a frozen encoder, computed once and mapped from disk in every later pass.

A folder a stage: parts (storage/parts.py) with `states` [tokens, d_enc] of 512 examples, or of all layers [tokens, S, d_enc] of so
many fewer, in the encoder's own dtype, and index.json with the digests of the encoder's weights and of the tokens they belong to, complete when all parts are there.
The hash of each part is checked before a stage begins; a damaged one is made again.
Every rank computes every n-th part; a part is the same whoever makes it, and one that is there is not made again.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmscale.data.packing import encoder_row
from mmscale.data.token_store import TokenStore
from mmscale.errors import Interrupted, UserError
from mmscale.models.encoders import Encoder
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import bar, say
from mmscale.storage.files import digest, write_json
from mmscale.storage.parts import Content, Part, PartFolder, parts_of
from mmscale.storage.reading import read_json_object

PART_EXAMPLES = 512
"""At 100 tokens of mT5-xl (2,048 wide, bfloat16): 200 MB."""
BATCH_TOKENS = 16_384
"""Encoder tokens computed at once."""
_INDEX, _COMPLETE = "index.json", "complete"
_HASHED_BYTES = 1 << 26


@dataclass(frozen=True)
class CacheFolder:
    """Where a cache is, and whether it may be made anew when it belongs to something else."""

    folder: Path
    renewable: bool
    title: str


def weights_digest(encoder: Encoder) -> str:
    """Digest of names, shapes and all values: training may have changed a few rows of a table alone."""
    hashed = hashlib.sha256()
    for name, parameter in encoder.named_parameters():
        hashed.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        values = parameter.detach().flatten().contiguous().view(torch.uint8)
        for piece in values.split(_HASHED_BYTES):
            hashed.update(piece.cpu().numpy().data)
    return hashed.hexdigest()


def size_of(stores: dict[str, TokenStore], shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int]:
    """(encoder tokens, bytes of their states, which are of this shape each)."""
    tokens = sum(int(store.field_lengths()[:, 2].sum()) for store in stores.values())
    return tokens, tokens * math.prod(shape) * dtype.itemsize


def part_examples(shape: tuple[int, ...]) -> int:
    """Examples of a part, whose tokens have states of this shape: parts stay about as large whatever the layers."""
    return max(1, PART_EXAMPLES // math.prod(shape[:-1]))


def state_parts(store: TokenStore, shape: tuple[int, ...]) -> list[Part]:
    """The parts of a store's states."""
    return parts_of(store.name, len(store), part_examples(shape))


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Numbers of examples of about equal length, few enough for one pass."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and lengths[i] * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _computed(encoder: Encoder, store: TokenStore, part: Part, device: torch.device) -> Content:
    """What a part holds: the states of its examples, one after another."""
    examples = [store[i] for i in part.rows]
    lengths = [len(example.encoder_ids) for example in examples]
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    states = torch.empty(ends[-1], *encoder.shape, dtype=encoder.dtype)
    with torch.no_grad():
        for batch in _batches(lengths):
            of_batch = encoder.states(encoder_row([examples[i] for i in batch]).to(device)).to("cpu", encoder.dtype)
            for i, of_example in zip(batch, of_batch.split([lengths[i] for i in batch]), strict=True):
                states[ends[i] : ends[i + 1]] = of_example
    return Content({"states": states}, {})


class WithStates(TokenStore):
    """The same examples, each with its encoder states; nothing but what is looked at enters memory."""

    def __init__(self, tokens: TokenStore, folder: PartFolder, shape: tuple[int, ...]) -> None:
        super().__init__(tokens.folder, tokens.name, tokens.runs, tokens.numbers)
        self._part = part_examples(shape)
        lengths = tokens.field_lengths()[:, 2].long()
        self._counts, self._after = lengths, lengths.cumsum(0)
        parts = state_parts(tokens, shape)
        self._mapped = functools.cache(lambda number: folder.mapped(parts[number], "states"))

    def __getitem__(self, index: Any) -> Any:
        example = super().__getitem__(index)
        if isinstance(index, slice):
            return example  # a list, made of single ones
        index %= len(self)
        number = index // self._part
        first = number * self._part
        offset = int(self._after[first - 1]) if first else 0
        stop = int(self._after[index]) - offset
        return replace(example, encoder_states=self._mapped(number)[stop - int(self._counts[index]) : stop])


def _belongs_to(encoder: Encoder, stores: dict[str, TokenStore]) -> dict[str, str]:
    belongs = {"encoder": weights_digest(encoder), "tokens": " ".join(store.digest() for store in stores.values())}
    return belongs | ({"states": "of all layers"} if encoder.all_layers else {})


def _is_complete(place: CacheFolder, wanted: dict[str, str]) -> bool:
    """Whether the cache is complete and belongs to this encoder and these tokens; UserError where it may not be renewed."""
    index = place.folder / _INDEX
    try:
        held = read_json_object(index, "the encoder states are computed again") if index.is_file() else {}
    except UserError as error:
        if not place.renewable:
            raise UserError(f"{index} is damaged: remove {place.folder}, or choose another encoder_cache") from error
        say(str(error))
        held = {}
    if {key: value for key, value in held.items() if key != _COMPLETE} == wanted:
        return bool(held.get(_COMPLETE))
    if held and not place.renewable:
        other = "another encoder" if held.get("encoder") != wanted["encoder"] else "other data or another tokenizer"
        if held.get("states") != wanted.get("states"):
            other = "other layers of the encoder"
        raise UserError(
            f"{place.folder} holds encoder states of {other}: choose another encoder_cache, or remove that folder"
        )
    for file in place.folder.glob("*.safetensors"):
        file.unlink()
    write_json(index, {**wanted, _COMPLETE: False})
    return False


def with_states(
    encoder: Encoder,
    stores: dict[str, TokenStore],
    place: CacheFolder,
    context: ParallelContext,
    interruption: Interruption,
) -> dict[str, WithStates]:
    """The stores with their states, computed by all ranks where they are not there yet.

    Raises UserError for a cache of something else that is not ours to remove, Interrupted (on all ranks, after a part)
    for a signal or a time limit.
    """
    wanted = context.from_first(lambda: _belongs_to(encoder, stores))
    folder = PartFolder(place.folder, digest(wanted))
    with context.alone_in(place.folder):
        complete = context.from_first(lambda: _is_complete(place, wanted))
        damaged = _without_damaged(_parts(stores, encoder.shape), folder, context)
        if damaged or not complete:
            _make(encoder, stores, place.title, folder, context, interruption)
            context.on_first(lambda: write_json(place.folder / _INDEX, {**wanted, _COMPLETE: True}))
    return {name: WithStates(store, folder, encoder.shape) for name, store in stores.items()}


def _parts(stores: dict[str, TokenStore], shape: tuple[int, ...]) -> list[Part]:
    return [part for store in stores.values() for part in state_parts(store, shape)]


def _without_damaged(parts: list[Part], folder: PartFolder, context: ParallelContext) -> bool:
    """Remove parts that are not what was written, and say so; whether there were any. Ranks share the hashing."""
    there = filter(folder.holds, parts[context.rank :: context.size])
    mine = [str(folder.path(part)) for part in folder.damaged(there)]
    damaged = [path for of_rank in context.gather(mine) for path in of_rank]
    for path in damaged:
        say(f"{path} is damaged: it is made again")
        if context.is_first:
            Path(path).unlink()
    context.barrier()
    return bool(damaged)


def _make(
    encoder: Encoder,
    stores: dict[str, TokenStore],
    title: str,
    folder: PartFolder,
    context: ParallelContext,
    interruption: Interruption,
) -> None:
    """Ranks take turns at the parts and meet after each turn, so that nobody waits long in a collective."""
    tokens, size = size_of(stores, encoder.shape, encoder.dtype)
    count = sum(map(len, stores.values()))
    say(
        f"{title}: encoder states of {count:,} examples, {tokens:,} tokens x {' x '.join(map(str, encoder.shape))} x "
        f"{encoder.dtype.itemsize} bytes = {size / 1e6:,.1f} MB, into {folder.folder}"
    )
    parts = _parts(stores, encoder.shape)
    by_name = {store.name: store for store in stores.values()}
    with bar(f"{title}: encoder states", len(parts)) as progress, interruption:
        for begin in range(0, len(parts), context.size):
            interruption.watch()
            turn = parts[begin : begin + context.size]
            if context.rank < len(turn):
                part = turn[context.rank]
                folder.make(part, functools.partial(_computed, encoder, by_name[part.name], part, context.device))
            reason = interruption.reason()
            if reason is not None:
                say(f"{title}: stopped by {reason}; the same command goes on from there")
                raise Interrupted(reason, interruption.signal)
            for _ in turn:
                progress.advance()
