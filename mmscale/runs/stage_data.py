"""A stage's data: read, tokenised, split into training and development examples."""

from __future__ import annotations

import random
from collections.abc import Sequence

from mmscale.config.training import StageConfig
from mmscale.data.loading import DataAccount, load_records
from mmscale.data.records import Record
from mmscale.data.segments import ExampleTokenizer, TokenizedExample
from mmscale.errors import UserError
from mmscale.training.trainer import TrainingData


def read_stage_records(
    config: StageConfig, languages: Sequence[str], seed: int
) -> tuple[list[Record], list[Record], list[DataAccount]]:
    """(training records, development records, accounts) of a stage."""
    accounts: list[DataAccount] = []

    def read(parts: Sequence[object]) -> list[Record]:
        records: list[Record] = []
        for part in parts:
            found, account = load_records(part, languages)  # type: ignore[arg-type]
            records += found
            accounts.append(account)
        return records

    train, dev = read(config.data), read(config.dev_data)
    if config.dev_examples and not dev:
        if config.dev_examples >= len(train):
            raise UserError(
                f"dev_examples={config.dev_examples} would leave no training rows of {len(train)}: lower it"
            )
        chosen = set(random.Random(seed).sample(range(len(train)), config.dev_examples))
        dev = [train[i] for i in sorted(chosen)]
        train = [record for i, record in enumerate(train) if i not in chosen]
    return train, dev, accounts


def tokenize_stage(
    train: Sequence[Record], dev: Sequence[Record], tokenize: ExampleTokenizer, context_length: int
) -> TrainingData:
    """TrainingData whose examples all fit the model's context; UserError naming the first that does not."""
    data = TrainingData(tokenize(train), tokenize(dev), tokenize.specials)
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
