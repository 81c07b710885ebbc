"""States of a frozen encoder, computed once and mapped from disk in every later pass.

A folder a stage: NAME-NNNNN.safetensors with `states` [tokens, d_enc] of 512 examples, in the encoder's own dtype, and
index.json with the digests of the encoder's weights and of the tokens they belong to, written when all parts are there.
Each part carries its own hash, checked before a stage begins; a damaged one is made again.
Every rank computes every n-th part; a part is the same whoever makes it, and one that is there is not made again.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmscale.data.packing import encoder_row
from mmscale.data.token_store import TokenStore
from mmscale.errors import Interrupted, UserError
from mmscale.models.encoders import Encoder
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import bar, say
from mmscale.storage.files import atomic_write, write_json
from mmscale.storage.reading import read_json_object
from mmscale.storage.tensor_writing import digest

PART_EXAMPLES = 512
"""At 100 tokens of mT5-xl (2,048 wide, bfloat16): 200 MB."""
BATCH_TOKENS = 16_384
"""Encoder tokens computed at once."""
_INDEX, _DIGEST = "index.json", "sha256"
_SAMPLE_BYTES, _SAMPLES = 1 << 16, 64


@dataclass(frozen=True)
class CacheFolder:
    """Where a cache is, and whether it may be made anew when it belongs to something else."""

    folder: Path
    renewable: bool
    title: str


def weights_digest(encoder: Encoder) -> str:
    """Digest of names, shapes and up to 4 MB of each parameter's values, taken at even distances: two checkpoints differ."""
    digest = hashlib.sha256()
    for name, parameter in encoder.named_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        values = parameter.detach().flatten().contiguous().view(torch.uint8)
        step = max(_SAMPLE_BYTES, values.numel() // _SAMPLES)
        for begin in range(0, values.numel(), step):
            digest.update(values[begin : begin + _SAMPLE_BYTES].cpu().numpy().tobytes())
    return digest.hexdigest()


def size_of(stores: dict[str, TokenStore], width: int, dtype: torch.dtype) -> tuple[int, int]:
    """(encoder tokens, bytes of their states)."""
    tokens = sum(int(store.field_lengths()[:, 2].sum()) for store in stores.values())
    return tokens, tokens * width * dtype.itemsize


def _file(folder: Path, name: str, number: int) -> Path:
    return folder / f"{name}-{number:05d}.safetensors"


def _part(store: TokenStore, number: int) -> range:
    return range(number * PART_EXAMPLES, min(len(store), (number + 1) * PART_EXAMPLES))


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


def _write(
    encoder: Encoder, store: TokenStore, number: int, place: CacheFolder, device: torch.device, key: str
) -> None:
    """One part, whole or not at all, with the hash of it and of what it belongs to (`key`)."""
    examples = [store[i] for i in _part(store, number)]
    lengths = [len(example.encoder_ids) for example in examples]
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    states = torch.empty(ends[-1], encoder.width, dtype=encoder.dtype)
    with torch.no_grad():
        for batch in _batches(lengths):
            found = encoder.states(encoder_row([examples[i] for i in batch]).to(device)).to("cpu", encoder.dtype)
            for i, part in zip(batch, found.split([lengths[i] for i in batch]), strict=True):
                states[ends[i] : ends[i + 1]] = part
    notes = {"of": f"{key} {store.name} {number}"}
    with atomic_write(_file(place.folder, store.name, number), "wb") as handle:
        handle.write(save({"states": states}, {**notes, _DIGEST: digest({"states": states}, notes)}))


def _is_sound(folder: Path, store: TokenStore, number: int, key: str) -> bool:
    """Whether a part is there and, bit for bit, what was written."""
    try:
        with safe_open(_file(folder, store.name, number), framework="pt") as file:
            notes, names = dict(file.metadata() or {}), list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, TypeError, ValueError):
        return False
    right = notes.pop(_DIGEST, None) == digest(tensors, notes)
    return right and notes == {"of": f"{key} {store.name} {number}"}


class WithStates(TokenStore):
    """The same examples, each with its encoder states; nothing but what is looked at enters memory."""

    def __init__(self, tokens: TokenStore, folder: Path) -> None:
        super().__init__(tokens.folder, tokens.name, len(tokens))
        lengths = tokens.field_lengths()[:, 2].long()
        self._counts, self._after = lengths.tolist(), lengths.cumsum(0).tolist()
        self._mapped = functools.cache(lambda number: _mapped(_file(folder, tokens.name, number)))

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        if isinstance(index, slice):
            return found  # made of single ones
        index %= len(self)
        number = index // PART_EXAMPLES
        first = number * PART_EXAMPLES
        offset = self._after[first - 1] if first else 0
        stop = self._after[index] - offset
        return replace(found, encoder_states=self._mapped(number)[stop - self._counts[index] : stop])


def _mapped(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt").get_slice("states")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged ({error}): remove its folder, it is made again") from error


def _belongs_to(encoder: Encoder, stores: dict[str, TokenStore]) -> dict[str, str]:
    return {"encoder": weights_digest(encoder), "tokens": " ".join(store.digest() for store in stores.values())}


def key_of(belongs_to: dict[str, str]) -> str:
    """What the parts of a cache carry, so that none is taken for another's."""
    return hashlib.sha256(json.dumps(belongs_to, sort_keys=True).encode()).hexdigest()


def _found(place: CacheFolder, wanted: dict[str, str]) -> bool:
    """Whether the cache is complete and belongs to this encoder and these tokens; UserError where it may not be renewed."""
    index = place.folder / _INDEX
    try:
        held = read_json_object(index, "the encoder states are computed again") if index.is_file() else {}
    except UserError as error:
        if not place.renewable:
            raise UserError(f"{index} is damaged: remove {place.folder}, or choose another encoder_cache") from error
        say(str(error))
        held = {}
    if {key: held.get(key) for key in wanted} == wanted:
        return bool(held.get("complete"))
    if held and not place.renewable:
        other = "another encoder" if held.get("encoder") != wanted["encoder"] else "other data or another tokenizer"
        raise UserError(
            f"{place.folder} holds encoder states of {other}: choose another encoder_cache, or remove that folder"
        )
    for file in place.folder.glob("*.safetensors"):
        file.unlink()
    write_json(index, {**wanted, "complete": False})
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
    key = key_of(wanted)
    with context.alone_in(place.folder):
        complete = context.from_first(lambda: _found(place, wanted))
        damaged = _without_damaged(stores, place, context, key)
        if damaged or not complete:
            _make(encoder, stores, place, context, interruption, key)
            context.on_first(lambda: write_json(place.folder / _INDEX, {**wanted, "complete": True}))
    return {name: WithStates(store, place.folder) for name, store in stores.items()}


def _parts(stores: dict[str, TokenStore]) -> list[tuple[TokenStore, int]]:
    return [(store, n) for store in stores.values() for n in range(-(-len(store) // PART_EXAMPLES))]


def _without_damaged(stores: dict[str, TokenStore], place: CacheFolder, context: ParallelContext, key: str) -> bool:
    """Remove parts that are not what was written, and say so; whether there were any. Ranks share the hashing."""
    mine = [
        str(_file(place.folder, store.name, n))
        for store, n in _parts(stores)[context.rank :: context.size]
        if _file(place.folder, store.name, n).is_file() and not _is_sound(place.folder, store, n, key)
    ]
    damaged = [path for part in context.gather(mine) for path in part]
    for path in damaged:
        say(f"{path} is damaged: it is made again")
        if context.is_first:
            Path(path).unlink()
    context.barrier()
    return bool(damaged)


def _make(
    encoder: Encoder,
    stores: dict[str, TokenStore],
    place: CacheFolder,
    context: ParallelContext,
    interruption: Interruption,
    key: str,
) -> None:
    """Ranks take turns at the parts and meet after each turn, so that nobody waits long in a collective."""
    tokens, size = size_of(stores, encoder.width, encoder.dtype)
    count = sum(map(len, stores.values()))
    say(
        f"{place.title}: encoder states of {count:,} examples, {tokens:,} tokens x {encoder.width} x "
        f"{encoder.dtype.itemsize} bytes = {size / 1e6:,.1f} MB, into {place.folder}"
    )
    parts = _parts(stores)
    with bar(f"{place.title}: encoder states", len(parts)) as progress, interruption:
        for begin in range(0, len(parts), context.size):
            interruption.watch()
            turn = parts[begin : begin + context.size]
            if context.rank < len(turn):
                store, number = turn[context.rank]
                if not _file(place.folder, store.name, number).is_file():
                    _write(encoder, store, number, place, context.device, key)
            reason = interruption.reason()
            if reason is not None:
                say(f"{place.title}: stopped by {reason}; the same command goes on from there")
                raise Interrupted(reason, interruption.signal)
            for _ in turn:
                progress.advance()
