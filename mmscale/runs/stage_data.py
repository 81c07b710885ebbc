"""A stage's data, from its files to what a trainer reads.

Two steps, in this order. The records of its data sets are read and tokenised into a folder of the stage by as many processes as
there are, each its own pieces (runs/token_making.py), before these join a process group (`prepare`): nobody may wait for a
tokenizer inside of a collective. Inside of the group the tokens are mapped from disk, and the states of a frozen encoder computed once
where that pays (`open`). A part that is there is not made again, whoever made it.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmscale import __version__
from mmscale.config.data import DataConfig, TrainingDataConfig
from mmscale.config.model import EncoderConfig
from mmscale.data.loading import DataAccount
from mmscale.data.packing import pack
from mmscale.data.preview import Segment, segments
from mmscale.data.prompts import reads_translation, template
from mmscale.data.records import Record
from mmscale.data.segments import ExampleTokenizer, TokenizedExample, special_tokens
from mmscale.data.sources.hub import local_folder, on_hub
from mmscale.data.token_store import PartRun, TokenStore
from mmscale.errors import UserError
from mmscale.models.connectors import connector
from mmscale.models.encoders import load_encoder_tokenizer
from mmscale.models.language_model import context_length, load_model_config, load_tokenizer
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import World
from mmscale.progress import say
from mmscale.runs import encoder_cache
from mmscale.runs.stage import Stage
from mmscale.runs.stage_records import StageRecords, held_out_numbers, mixture, read_stage_records
from mmscale.runs.token_making import INDEX, Index, SetOf, TokenMaking, read_index, sets_of, waiting, without_held_out
from mmscale.storage.files import digest, write_json
from mmscale.training.trainer import TrainingData
from mmscale.translation.questions import Translations


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
            "in pieces",
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

    def _translate(self, one: SetOf, pieces: Iterator[list[Record]]) -> None:
        """Translate what the prompts of these records show of translations, and keep it."""
        translations, given = self.translations(one.config), one.config.translation
        if translations is not None:
            translations.of([record for records in pieces for record in records], self.stage.title)
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
        for number, records in chosen.by_set():
            self._translate(self._sets[number], iter([records]))
        row = pack(self._examples(chosen, self.stage.config.data), self.tokenize.specials)
        return segments(row, self.tokenize.tokenizer, encoder.tokenizer if encoder else None)

    def in_memory(self) -> tuple[TrainingData, list[DataAccount]]:
        """All examples tokenised by this process, nothing written and nothing translated: NotHereYet where that is still to do."""
        train, dev, accounts = self.records()
        sets = self.stage.config.data
        examples = self._examples(train, sets), self._examples(dev, self._dev_sets)
        return self._training_data(*examples, train.sizes(len(sets))), accounts

    def _examples(self, rows: StageRecords, sets: Sequence[TrainingDataConfig]) -> list[TokenizedExample]:
        """Records as ids, each by the template of its data set."""
        return [example for number, records in rows.by_set() for example in self._examples_of(sets[number], records)]

    def _examples_of(self, config: TrainingDataConfig, records: Sequence[Record]) -> list[TokenizedExample]:
        """Records of a data set as ids; UserError naming one that does not fit the model's context, NotHereYet where one is not
        translated yet.
        """
        translations = self.translations(config)
        if translations is not None:
            records = translations.kept(records)
        tokenize = self.tokenize if config.prompt is None else self.tokenize.asking_by(template(config.prompt))
        examples = tokenize(records)
        require_context(examples, self.context_length)
        return examples

    @functools.cached_property
    def _sets(self) -> list[SetOf]:
        """All data sets that are read, those of training first."""
        config, languages = self.stage.config, self.stage.run.languages
        return [*sets_of("train", config.data, languages), *sets_of("dev", config.dev_data, languages)]

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
        if read_index(self.folder, self._sets, hashed=True) is None:
            self._make(world)
        return self.folder

    def tokens(self, context: ParallelContext) -> TrainingData:
        """The examples, mapped from disk. One process makes what is missing; ranks that already talk to each other have to
        find it made.
        """
        self._device = context.device
        # several ranks look at every bit before they talk to each other
        index = read_index(self.folder, self._sets, hashed=context.size == 1)
        if index is None:
            if context.size > 1:
                raise UserError(
                    f"{self.stage.title} has no tokens at {self.folder}: make them with mmscale data tokenize"
                )
            index = self._make(World())
        return self._opened(index)

    def _opened(self, index: Index) -> TrainingData:
        """The examples of an index, those of development taken out of the others where they have no data set of their own."""
        runs: dict[str, list[PartRun]] = {"train": [], "dev": []}
        sizes = []
        for one in self._sets:
            of_set = index.runs(one)
            runs[one.name] += of_set
            sizes += [sum(run.count for run in of_set)] if one.name == "train" else []
        train, dev = (TokenStore(self.folder, name, of_name) for name, of_name in runs.items())
        held_out = held_out_numbers(self.stage.config, self.stage.run.seed, len(train), len(dev))
        if held_out:
            dev = TokenStore(self.folder, "dev", train.runs, np.array(held_out, dtype=np.int32))
            train = TokenStore(self.folder, "train", train.runs, without_held_out(len(train), held_out))
            ends = np.searchsorted(held_out, np.cumsum([0, *sizes]))
            sizes = [size - int(taken) for size, taken in zip(sizes, np.diff(ends), strict=True)]
        return self._training_data(train, dev, sizes)

    def open(self, context: ParallelContext, encoder: EncoderConfig | None) -> TrainingData:
        """The examples as the trainer reads them: tokens, with states of the encoder that the stage begins with where these
        come from disk.
        """
        data = self.tokens(context)
        return data if encoder is None else encoder_cache.cached(self.stage, encoder, data, context)

    def _make(self, world: World) -> Index:
        """All parts, made by this process and others; every process refuses data that is unusable."""
        making = TokenMaking(self.stage.title, self.folder, self._sets, self.stage.run.languages, world)
        minutes = self.stage.run.parallel.timeout_minutes
        wait = waiting(self.folder, minutes, lambda: self.translated_bytes)
        index = making.make(lambda one, records: self._examples_of(one.config, records), self._translate, wait)
        accounts = [index.account(one) for one in self._sets]
        for one, account in zip(self._sets, accounts, strict=True):
            account.require_usable(one.config)
        self._opened(index)  # refuses shares of nothing
        if world.rank == 0:
            write_json(self.stage.folder / "data.json", [account.summary() for account in accounts])
            making.publish(index)
        wait([self.folder / INDEX])
        return index


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
