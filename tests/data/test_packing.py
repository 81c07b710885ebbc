"""Packing is a pure function, keeps every example once, and leaves few slots empty."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.config.data import DataConfig, PackingConfig
from mmscale.data.loading import load_records
from mmscale.data.packing import DataParallelRank, StepOrder, balance_rows, fill_rows
from mmscale.data.prompts import template
from mmscale.data.segments import ExampleTokenizer, special_tokens
from mmscale.errors import UserError

LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=300)


@given(LENGTHS, st.integers(100, 400))
@settings(max_examples=60, deadline=None)
def test_filled_rows_hold_every_example_once_within_capacity(lengths, capacity):
    rows = fill_rows(lengths, range(len(lengths)), capacity, window=50)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)


@given(LENGTHS, st.integers(100, 400), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_balanced_rows_hold_exactly_the_chosen_within_capacity(lengths, capacity, multiple):
    rows = balance_rows(lengths, range(len(lengths)), capacity, multiple)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert len(rows) % multiple == 0
    assert all(sum(lengths[i] for i in row) <= capacity for row in rows)


@pytest.mark.parametrize("batch", [{"global_batch_size": 10}, {"global_batch_tokens": 600}])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_share_each_epoch_without_overlap(batch, size):
    lengths = [(7 * i) % 90 + 5 for i in range(97)]
    packing = PackingConfig(row_tokens=200, **batch)
    orders = [StepOrder(lengths, packing, seed=3, ranks=DataParallelRank(rank, size)) for rank in range(size)]
    for epoch in (0, 1):
        steps = [order.epoch(epoch) for order in orders]
        assert len({len(rank) for rank in steps}) == 1
        for step in zip(*steps, strict=True):
            assert len({len(rows) for rows in step}) == 1, "every rank has as many rows in a step"
        assert sorted(i for rank in steps for step in rank for row in step for i in row) == list(range(97))
    assert orders[0].epoch(0) != orders[0].epoch(1)


def test_a_step_is_a_function_of_seed_epoch_and_layout_alone():
    lengths = [(5 * i) % 60 + 5 for i in range(50)]
    packing = PackingConfig(row_tokens=100, global_batch_size=8)

    def order(seed):
        return StepOrder(lengths, packing, seed, DataParallelRank())

    straight = order(1)
    visited = [straight.step(n) for n in range(20)]
    assert [order(1).step(n) for n in reversed(range(20))] == visited[::-1]
    assert order(2).step(0) != visited[0]
    assert visited[7][:2] == (1, 0), "50 examples make 7 steps of 8"


def test_one_data_parallel_layout_sees_the_same_global_batches_as_another():
    lengths = [(5 * i) % 60 + 5 for i in range(50)]
    packing = PackingConfig(row_tokens=100, global_batch_size=8)
    for step in range(14):
        batches = []
        for size in (1, 2, 4):
            ranks = (StepOrder(lengths, packing, 1, DataParallelRank(r, size)) for r in range(size))
            batches.append(sorted(i for order in ranks for row in order.step(step)[2] for i in row))
        assert batches[0] == batches[1] == batches[2]


@pytest.mark.parametrize("source", ["gsmtrans", "mgsm"])
@pytest.mark.parametrize("batch", [{"global_batch_size": 128}, {"global_batch_tokens": 16384}])
def test_at_least_97_percent_of_token_slots_are_used(public_tokenizer, public_data, source, batch):
    tokenizer, config = public_tokenizer("llama2")
    languages = ("de", "es", "fr", "ja", "ru", "sw", "zh") if source == "gsmtrans" else ()
    records, _ = load_records(
        DataConfig(source=source, path=str(public_data / source), languages=languages), ("bn", "de", "th", "te", "en")
    )
    packing = PackingConfig(row_tokens=4096, max_prompt_tokens=1024, **batch)
    name = "question_translation" if source == "gsmtrans" else "alpaca"
    tokenize = ExampleTokenizer(tokenizer, special_tokens(tokenizer, config), template(name), packing)
    lengths = [example.merged_length for example in tokenize(records[:20000], with_target=False)]
    order = StepOrder(lengths, packing, seed=0, ranks=DataParallelRank())
    assert order.fill(len(order.epoch(0))) >= 0.97


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(UserError, match="300 tokens but packing.row_tokens is 200"):
        StepOrder([10, 300], PackingConfig(row_tokens=200, global_batch_size=2), 0, DataParallelRank())


def test_no_examples_are_refused():
    with pytest.raises(UserError, match="no examples are left"):
        StepOrder([], PackingConfig(global_batch_size=2), 0, DataParallelRank())
