"""Tokenising a stage's data: before training, outside of any process group, by as many processes as there are.

Each process takes every n-th part of the data; a part that is there is not made again, whoever made it.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmscale import __version__
from mmscale.config.data import DataConfig
from mmscale.data.loading import DataAccount
from mmscale.data.prompts import template
from mmscale.data.records import Record
from mmscale.data.segments import ExampleTokenizer, special_tokens
from mmscale.data.token_store import PART_EXAMPLES, TokenStore, part_path, part_size, parts_of, write_part
from mmscale.errors import UserError
from mmscale.models.encoders import load_encoder_tokenizer
from mmscale.models.language_model import context_length, load_model_config, load_tokenizer
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import World
from mmscale.progress import bar, say
from mmscale.runs.stage import Stage
from mmscale.runs.stage_data import read_stage_records, require_context
from mmscale.storage.files import write_json
from mmscale.storage.reading import read_json_object
from mmscale.training.trainer import TrainingData

INDEX = "index.json"
_POLL_SECONDS = 0.2


def stage_tokenizer(stage: Stage) -> tuple[ExampleTokenizer, int]:
    """(what turns a stage's records into ids, context length of its LLM); needs no weights."""
    own, encoder = stage.run.language_model, stage.encoder
    tokenizer, model_config = load_tokenizer(own), load_model_config(own)
    specials = special_tokens(tokenizer, model_config, own.bos_token, own.eos_token)
    encoder_tokenizer = load_encoder_tokenizer(encoder) if encoder else None
    made = ExampleTokenizer(tokenizer, specials, template(stage.prompt), stage.config.packing, encoder_tokenizer)
    return made, context_length(model_config)


def _file_states(config: DataConfig) -> list[list[Any]]:
    """Name, size and time of change of every local file that a data set may read; beside `train.sw` also `train.en`."""
    pattern = re.sub(r"\{([Ll]anguage|split)\}", "*", str(Path(config.path).expanduser()))
    roots = [Path(found) for found in sorted(glob.glob(pattern))] if config.path else []
    files = {
        file
        for root in roots
        for file in (
            root.rglob("*") if root.is_dir() else root.parent.glob(f"{glob.escape(root.name.split('.')[0])}.*")
        )
    }
    return [[str(f), f.stat().st_size, f.stat().st_mtime_ns] for f in sorted({*files, *roots}) if f.is_file()]


def _vocabulary(tokenizer: Any) -> str:
    """Digest of what a tokenizer does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    content = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def folder_of(stage: Stage, tokenize: ExampleTokenizer) -> Path:
    """Where a stage's tokens are, by everything that decides them."""
    config, encoder = stage.config, tokenize.encoder_tokenizer
    content = [
        __version__,
        stage.prompt,
        stage.run.languages,
        stage.run.seed,
        config.dev_examples,
        [[data.model_dump(mode="json"), _file_states(data)] for data in (*config.data, *config.dev_data)],
        {name: value for name, value in config.packing.model_dump().items() if name.startswith("max_")},
        [tokenize.specials.bos, tokenize.specials.eos],
        _vocabulary(tokenize.tokenizer),
        [type(encoder.tokenizer).__name__, _vocabulary(encoder.tokenizer)] if encoder is not None else None,
    ]
    return stage.folder / "tokens" / hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def tokenize_stage_data(stage: Stage, world: World | None = None) -> Path:
    """The folder of a stage's tokens, made together by all processes of a world; returns when all of it is there.

    Raises UserError for bad data, and when another process stops making its parts.
    """
    tokenize, context_length = stage_tokenizer(stage)
    folder = folder_of(stage, tokenize)
    if _counts(folder, hashed=True) is None:
        _make(stage, tokenize, context_length, folder, world or World())
    return folder


def _counts(folder: Path, hashed: bool) -> dict[str, int] | None:
    """What the index of a folder of tokens says, or None where it is not written yet. Every bit of its parts is looked at
    if `hashed`, else their headers.

    An index that is damaged, or says what its parts are not, is removed with the parts that are not whole, and both are
    made again: a folder of tokens is a cache.
    """
    index = folder / INDEX
    if not index.is_file():
        return None
    try:
        found = read_json_object(index, "it is made again")
        if set(found) != {"train", "dev"} or not all(type(n) is int and n >= 0 for n in found.values()):
            raise UserError(f"{index} is no index of tokens: it is made again")
        damaged = [
            part_path(folder, name, number)
            for (name, number), size in _sizes(found).items()
            if part_size(folder, name, number, hashed) != size
        ]
        if not damaged:
            return found
        for path in damaged:
            path.unlink(missing_ok=True)
        raise UserError(f"{damaged[0]} is damaged, or not of this index ({len(damaged)} such parts): made again")
    except UserError as error:
        say(str(error))
    index.unlink(missing_ok=True)
    return None


def _sizes(counts: dict[str, int]) -> dict[tuple[str, int], int]:
    """(name, number) of a part -> how many examples it has to hold."""
    return {
        (name, i): min(PART_EXAMPLES, count - i * PART_EXAMPLES)
        for name, count in counts.items()
        for i in range(parts_of(count))
    }


def _make(stage: Stage, tokenize: ExampleTokenizer, context_length: int, folder: Path, world: World) -> None:
    """This process's parts, and then the wait for those of others."""
    train, dev, accounts = read_stage_records(stage.config, stage.run.languages, stage.run.seed)
    parts = [(name, i, records) for name, records in (("train", train), ("dev", dev)) for i in _numbers(records)]
    mine = parts[world.rank :: world.size]
    with bar(f"{stage.title}: tokenising", len(mine)) as progress:
        for name, number, records in mine:
            if not part_path(folder, name, number).is_file():
                examples = tokenize(records[number * PART_EXAMPLES :][:PART_EXAMPLES])
                require_context(examples, context_length)
                write_part(folder, name, number, examples)
            progress.advance()
    minutes = stage.run.parallel.timeout_minutes
    if world.rank == 0:
        _wait(lambda: sum(part_path(folder, name, i).is_file() for name, i, _ in parts), len(parts), folder, minutes)
        _publish(stage, folder, {"train": len(train), "dev": len(dev)}, accounts)
    else:
        _wait(lambda: int((folder / INDEX).is_file()), 1, folder, minutes)


def _numbers(records: Sequence[Record]) -> range:
    return range(parts_of(len(records)))


def _wait(there: Callable[[], int], wanted: int, folder: Path, minutes: float) -> None:
    """Until `wanted` files are there; UserError when for so many minutes none came."""
    found, since = there(), time.monotonic()
    while found < wanted:
        time.sleep(_POLL_SECONDS)
        before, found = found, there()
        if found > before:
            since = time.monotonic()
        if time.monotonic() - since > 60 * minutes:
            raise UserError(
                f"{folder}: no other process wrote any tokens for {minutes:g} minutes: one has ended, and its own "
                f"message says why; start the same command again, what is there stays"
            )


def _publish(stage: Stage, folder: Path, counts: dict[str, int], accounts: Sequence[DataAccount]) -> None:
    write_json(stage.folder / "data.json", [account.summary() for account in accounts])
    write_json(folder / INDEX, counts)
    for other in folder.parent.iterdir():
        if other != folder:  # of data or a tokenizer that changed since
            shutil.rmtree(other, ignore_errors=True)


def prepare(stages: Iterable[Stage], world: World) -> None:
    """Tokenise what these stages will need; stages that are finished need nothing."""
    for stage in stages:
        if not stage.finished:
            tokenize_stage_data(stage, world)


def tokens(stage: Stage, context: ParallelContext) -> TrainingData:
    """A stage's examples, mapped from disk. One process makes what is missing; ranks that already talk to each other
    have to find it made, since nobody may wait for a tokenizer inside a process group."""
    tokenize, context_length = stage_tokenizer(stage)
    folder = folder_of(stage, tokenize)
    counts = _counts(folder, hashed=context.size == 1)  # several look at every bit before they talk to each other
    if counts is None:
        if context.size > 1:
            raise UserError(f"{stage.title} has no tokens at {folder}: make them with mmscale data tokenize")
        _make(stage, tokenize, context_length, folder, World())
        counts = read_json_object(folder / INDEX, "remove its folder, it is made again")
    stores = {name: TokenStore(folder, name, count) for name, count in counts.items()}
    return TrainingData(stores["train"], stores["dev"], tokenize.specials)
