"""A stage's data, from its files to what a trainer reads.

Three steps, in this order. The records of its data sets are read. They are tokenised into a folder of the stage by as many
processes as there are, each every n-th part, before these join a process group (`prepare`): nobody may wait for a tokenizer
inside of a collective. Inside of the group the tokens are mapped from disk, and the states of a frozen encoder computed once
where that pays (`open`). A part that is there is not made again, whoever made it.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmscale import __version__
from mmscale.config.data import DataConfig, TrainingDataConfig
from mmscale.config.model import EncoderConfig
from mmscale.data.loading import DataAccount
from mmscale.data.packing import pack
from mmscale.data.preview import Segment, segments
from mmscale.data.prompts import reads_translation, template
from mmscale.data.segments import ExampleTokenizer, TokenizedExample, special_tokens
from mmscale.data.sources.hub import local_folder, on_hub
from mmscale.data.token_store import TokenStore, content_of, token_folder, token_parts
from mmscale.errors import UserError
from mmscale.models.connectors import connector
from mmscale.models.encoders import load_encoder_tokenizer
from mmscale.models.language_model import context_length, load_model_config, load_tokenizer
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import World
from mmscale.progress import bar, say
from mmscale.runs import encoder_cache
from mmscale.runs.stage import Stage
from mmscale.runs.stage_records import StageRecords, mixture, read_stage_records
from mmscale.storage.files import digest, write_json
from mmscale.storage.parts import Content, Part
from mmscale.storage.reading import read_json_object
from mmscale.training.trainer import TrainingData
from mmscale.translation.questions import Translations

INDEX = "index.json"
Sizes = Mapping[str, Sequence[int]]
"""What an index holds: "train" and "dev" -> examples of each data set, which lie one after another."""
_POLL_SECONDS = 0.2


class StageData:
    """What one stage reads; tokenizers and model configuration are resolved once, no weights are needed."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._translations: dict[str, Translations] = {}

    @functools.cached_property
    def _model_config(self) -> Any:
        return load_model_config(self.stage.language_model)

    @functools.cached_property
    def tokenize(self) -> ExampleTokenizer:
        """What turns the stage's records into ids."""
        own, encoder = self.stage.language_model, self.stage.encoder
        tokenizer = load_tokenizer(own)
        specials = special_tokens(tokenizer, self._model_config, own.bos_token, own.eos_token)
        encoder_tokenizer = load_encoder_tokenizer(encoder) if encoder else None
        limits, prefix = self.stage.config.packing, connector(self.stage.connector).settings.prefix_length
        return ExampleTokenizer(
            tokenizer, specials, template(self.stage.prompt), limits, encoder_tokenizer, prefix_length=prefix
        )

    @functools.cached_property
    def context_length(self) -> int:
        """Tokens that the language model reads at most."""
        return context_length(self._model_config)

    @functools.cached_property
    def folder(self) -> Path:
        """Where the tokens are, by everything that decides them."""
        stage, config, encoder = self.stage, self.stage.config, self.tokenize.encoder_tokenizer
        content = [
            __version__,
            stage.prompt,
            stage.run.languages,
            stage.run.seed,
            config.dev_examples,
            [
                [data.model_dump(mode="json", exclude={"share"}), _file_states(data)]
                for data in (*config.data, *config.dev_data)
            ],
            {name: value for name, value in config.packing.model_dump().items() if name.startswith("max_")},
            [self.tokenize.specials.bos, self.tokenize.specials.eos],
            _vocabulary(self.tokenize.tokenizer),
            [type(encoder.tokenizer).__name__, _vocabulary(encoder.tokenizer)] if encoder is not None else None,
            ["prefixes", stage.connector if encoder is not None else None],
            *(
                [translations.cache.work]
                for data in (*config.data, *config.dev_data)
                if (translations := self.translations(data)) is not None
            ),
        ]
        return stage.folder / "tokens" / digest(content)

    def translations(self, data: TrainingDataConfig) -> Translations | None:
        """What translates a data set's questions where its prompt shows translations; this process does it alone."""
        if data.translation is None or not reads_translation(data.prompt or self.stage.prompt):
            return None
        return self._translations.setdefault(
            data.translation.model_dump_json(), Translations(data.translation, ParallelContext(device=self._device))
        )

    @property
    def translated_bytes(self) -> int:
        """What is kept of the translations that this stage shows: it grows while some process translates."""
        folders = {translations.cache.folder for translations in self._translations.values()}
        return sum(file.stat().st_size for folder in folders for file in folder.glob("*.jsonl"))

    def _translate(self, rows: StageRecords, sets: Sequence[TrainingDataConfig]) -> None:
        """Translate what the prompts of these records show of translations, and keep it."""
        for number, records in rows.by_set():
            translations, given = self.translations(sets[number]), sets[number].translation
            if translations is not None:
                translations.of(records, self.stage.title)
            elif given is not None:
                say(f"{self.stage.title}: its prompt shows no translations, so {given.path} translates nothing")

    def records(self) -> tuple[StageRecords, StageRecords, list[DataAccount]]:
        """(training records, development records, accounts)."""
        return read_stage_records(self.stage.config, self.stage.run.languages, self.stage.run.seed)

    def preview(self, count: int) -> list[list[Segment]]:
        """Segments of `count` examples drawn over the whole stage, as its model would see them."""
        train, _, _ = self.records()
        numbers = random.Random(self.stage.run.seed).sample(range(len(train)), min(count, len(train)))
        encoder = self.tokenize.encoder_tokenizer
        chosen = train.chosen(numbers)
        self._translate(chosen, self.stage.config.data)
        row = pack(self._examples(chosen, self.stage.config.data), self.tokenize.specials)
        return segments(row, self.tokenize.tokenizer, encoder.tokenizer if encoder else None)

    def in_memory(self) -> tuple[TrainingData, list[DataAccount]]:
        """All examples tokenised by this process, nothing written and nothing translated: NotHereYet where that is still to do."""
        train, dev, accounts = self.records()
        sets = self.stage.config.data
        examples = self._examples(train, sets), self._examples(dev, self._dev_sets)
        return self._training_data(*examples, train.sizes(len(sets))), accounts

    def _examples(self, rows: StageRecords, sets: Sequence[TrainingDataConfig]) -> list[TokenizedExample]:
        """Records as ids, each by the template of its data set; UserError naming one that does not fit the model's context,
        NotHereYet where one is not translated yet.
        """
        examples: list[TokenizedExample] = []
        for number, records in rows.by_set():
            own, translations = sets[number].prompt, self.translations(sets[number])
            if translations is not None:
                records = translations.kept(records)
            tokenize = self.tokenize if own is None else self.tokenize.asking_by(template(own))
            examples += tokenize(records)
        require_context(examples, self.context_length)
        return examples

    @property
    def _dev_sets(self) -> tuple[TrainingDataConfig, ...]:
        """The data sets that development records are of: `data` where they were held out of it."""
        return self.stage.config.dev_data or self.stage.config.data

    def _training_data(
        self, train: Sequence[TokenizedExample], dev: Sequence[TokenizedExample], sizes: Sequence[int]
    ) -> TrainingData:
        return TrainingData(train, dev, self.tokenize.specials, mixture(self.stage.config, sizes))

    def prepare(self, world: World | None = None) -> Path:
        """The folder of the tokens, made together by all processes of a world; returns when all of it is there.

        Raises UserError for bad data, and when another process stops making its parts.
        """
        world = world or World()
        if torch.cuda.is_available():
            self._device = torch.device(f"cuda:{world.local_rank}")
        if _sizes(self.folder, hashed=True) is None:
            self._make(world)
        return self.folder

    def tokens(self, context: ParallelContext) -> TrainingData:
        """The examples, mapped from disk. One process makes what is missing; ranks that already talk to each other have to
        find it made.
        """
        self._device = context.device
        # several ranks look at every bit before they talk to each other
        sizes = _sizes(self.folder, hashed=context.size == 1)
        if sizes is None:
            if context.size > 1:
                raise UserError(
                    f"{self.stage.title} has no tokens at {self.folder}: make them with mmscale data tokenize"
                )
            self._make(World())
            sizes = read_json_object(self.folder / INDEX, "remove its folder, it is made again")
        stores = {name: TokenStore(self.folder, name, sum(of_sets)) for name, of_sets in sizes.items()}
        return self._training_data(stores["train"], stores["dev"], sizes["train"])

    def open(self, context: ParallelContext, encoder: EncoderConfig | None) -> TrainingData:
        """The examples as the trainer reads them: tokens, with states of the encoder that the stage begins with where these
        come from disk.
        """
        data = self.tokens(context)
        return data if encoder is None else encoder_cache.cached(self.stage, encoder, data, context)

    def _make(self, world: World) -> None:
        """This process's parts, and then the wait for those of others."""
        train, dev, accounts = self.records()
        rows = {"train": (train, self.stage.config.data), "dev": (dev, self._dev_sets)}
        sizes = {name: records.sizes(len(sets)) for name, (records, sets) in rows.items()}
        mixture(self.stage.config, sizes["train"])  # a share of nothing is told before hours of work
        tokens, parts = token_folder(self.folder), _parts(sizes)
        mine = parts[world.rank :: world.size]
        for name, (records, sets) in rows.items():
            self._translate(records.chosen([i for part in mine if part.name == name for i in part.rows]), sets)
        with bar(f"{self.stage.title}: tokenising", len(mine)) as progress:
            for part in mine:
                tokens.make(part, functools.partial(self._content, part, *rows[part.name]))
                progress.advance()
        minutes = self.stage.run.parallel.timeout_minutes
        if world.rank == 0:
            _wait(lambda: sum(map(tokens.holds, parts)), len(parts), self, minutes)
            self._publish(sizes, accounts)
        else:
            _wait(lambda: int((self.folder / INDEX).is_file()), 1, self, minutes)

    def _content(self, part: Part, rows: StageRecords, sets: Sequence[TrainingDataConfig]) -> Content:
        """What a part of the records' tokens holds."""
        return content_of(self._examples(rows.chosen(part.rows), sets))

    def _publish(self, sizes: Sizes, accounts: Sequence[DataAccount]) -> None:
        write_json(self.stage.folder / "data.json", [account.summary() for account in accounts])
        write_json(self.folder / INDEX, sizes)
        for other in self.folder.parent.iterdir():
            if other != self.folder:  # of data or a tokenizer that changed since
                shutil.rmtree(other, ignore_errors=True)


def prepare(stages: Iterable[Stage], world: World) -> None:
    """Tokenise what these stages will need; stages that are finished need nothing."""
    for stage in stages:
        if not stage.finished:
            StageData(stage).prepare(world)


def tokenize_stage(
    train: StageRecords, dev: StageRecords, tokenize: ExampleTokenizer, context_length: int
) -> TrainingData:
    """TrainingData of one template, whose examples all fit the model's context; UserError naming the first that does not."""
    data = TrainingData(tokenize(train.records), tokenize(dev.records), tokenize.specials)
    require_context((*data.train, *data.dev), context_length)
    return data


def require_context(examples: Sequence[TokenizedExample], context_length: int) -> None:
    """UserError naming the first example that does not fit a model's context."""
    for example in examples:
        if example.merged_length > context_length:
            raise UserError(
                f"{example.origin}: {example.merged_length} tokens do not fit the model's context of {context_length}: "
                f"lower packing.max_prompt_tokens, max_target_tokens or max_encoder_tokens"
            )


def _file_states(config: DataConfig) -> list[list[Any]]:
    """Name, size and time of change of every local file that a data set may read; beside `train.sw` also `train.en`."""
    if on_hub(config.path):
        return [[str(local_folder(config.path, ()))]]  # it is named by its commit
    pattern = re.sub(r"\{([Ll]anguage|split)\}", "*", str(Path(config.path).expanduser()))
    roots = [Path(root) for root in sorted(glob.glob(pattern))] if config.path else []
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


def _sizes(folder: Path, hashed: bool) -> Sizes | None:
    """What the index of a folder of tokens says, or None where it is not written yet. Every bit of its parts is looked at
    if `hashed`, else their headers.

    An index that is damaged, or says what its parts are not, is removed with the parts that are not whole, and both are
    made again: a folder of tokens is a cache.
    """
    index = folder / INDEX
    if not index.is_file():
        return None
    try:
        sizes = read_json_object(index, "it is made again")
        if set(sizes) != {"train", "dev"} or not all(map(_are_counts, sizes.values())):
            raise UserError(f"{index} is no index of tokens: it is made again")
        tokens = token_folder(folder)
        damaged = [tokens.path(part) for part in tokens.damaged(_parts(sizes), hashed)]
        if not damaged:
            return sizes
        for path in damaged:
            path.unlink(missing_ok=True)
        raise UserError(f"{damaged[0]} is damaged, or not of this index ({len(damaged)} such parts): made again")
    except UserError as error:
        say(str(error))
    index.unlink(missing_ok=True)
    return None


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _parts(sizes: Sizes) -> list[Part]:
    """All parts of a stage's tokens."""
    return [part for name, of_sets in sizes.items() for part in token_parts(name, sum(of_sets))]


def _wait(there: Callable[[], int], wanted: int, data: StageData, minutes: float) -> None:
    """Until `wanted` files are there; UserError when for so many minutes none came, and nothing was translated either."""
    folder, seen, since = data.folder, (-1, -1), time.monotonic()
    while (count := there()) < wanted:
        before, seen = seen, (count, data.translated_bytes)
        if seen != before:
            since = time.monotonic()
        time.sleep(_POLL_SECONDS)
        if time.monotonic() - since > 60 * minutes:
            raise UserError(
                f"{folder}: no other process wrote any tokens for {minutes:g} minutes: one has ended, and its own "
                f"message says why; start the same command again, what is there stays"
            )
