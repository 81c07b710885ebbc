"""The records of a stage, of one data set after another, and which of its data sets each is of."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmscale.config.data import DataConfig
from mmscale.config.training import StageConfig
from mmscale.data.loading import DataAccount, load_records
from mmscale.data.mixing import Mixture
from mmscale.data.records import Record
from mmscale.errors import UserError


@dataclass(frozen=True)
class StageRecords:
    """Records in the order of their data sets."""

    records: list[Record]
    sets: list[int]
    """Number of each record's data set in the configuration."""

    def __len__(self) -> int:
        return len(self.records)

    def chosen(self, numbers: Sequence[int]) -> StageRecords:
        return StageRecords([self.records[i] for i in numbers], [self.sets[i] for i in numbers])

    def by_set(self) -> Iterator[tuple[int, list[Record]]]:
        """(number of the data set, records) of each run of records of one data set."""
        pairs = zip(self.sets, self.records, strict=True)
        for number, run in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield number, [record for _, record in run]

    def sizes(self, sets: int) -> tuple[int, ...]:
        """Records of each of so many data sets."""
        counts = Counter(self.sets)
        return tuple(counts[number] for number in range(sets))


def read_stage_records(
    config: StageConfig, languages: Sequence[str], seed: int
) -> tuple[StageRecords, StageRecords, list[DataAccount]]:
    """(training records, development records, accounts) of a stage."""
    train, accounts = _read(config.data, languages)
    dev, dev_accounts = _read(config.dev_data, languages)
    held_out = held_out_numbers(config, seed, len(train), len(dev))
    if held_out:
        dev, others = train.chosen(held_out), set(range(len(train))).difference(held_out)
        train = train.chosen(sorted(others))
    return train, dev, [*accounts, *dev_accounts]


def held_out_numbers(config: StageConfig, seed: int, train: int, dev: int) -> list[int]:
    """Which of so many training records are for development, ascending; none where there are others for it."""
    if not config.dev_examples or dev:
        return []
    if config.dev_examples >= train:
        raise UserError(f"dev_examples={config.dev_examples} would leave no training rows of {train}: lower it")
    return sorted(random.Random(seed).sample(range(train), config.dev_examples))


def _read(sets: Sequence[DataConfig], languages: Sequence[str]) -> tuple[StageRecords, list[DataAccount]]:
    records: list[Record] = []
    numbers: list[int] = []
    accounts: list[DataAccount] = []
    for number, data in enumerate(sets):
        of_set, account = load_records(data, languages, pointing=())
        records += of_set
        numbers += [number] * len(of_set)
        accounts.append(account)
    return StageRecords(records, numbers), accounts


def mixture(config: StageConfig, sizes: Sequence[int]) -> Mixture | None:
    """The shares of a stage's data sets, of so many training examples each; None where it names none. UserError where a data
    set that has a share has no examples.
    """
    shares = [data.share for data in config.data if data.share is not None]
    if not shares:
        return None
    for number, (data, size) in enumerate(zip(config.data, sizes, strict=True)):
        if size == 0:
            raise UserError(
                f"data.{number} ({data.source} {data.path}) has a share of {data.share:g} and no rows to train on: "
                f"correct its path or languages, or take it out"
            )
    return Mixture(sizes=tuple(sizes), shares=tuple(shares), by_tokens=config.mix_by == "tokens")
