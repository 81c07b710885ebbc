"""Packing is a pure function, keeps every example once, and leaves few slots empty."""

from __future__ import annotations

import time

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


def by_looking_at_every_open_row(lengths, order, capacity, window):
    """The rule of fill_rows as it is said: best fit, longest first in each window, rows 97 % full closed after it."""
    closed, still_open = [], []
    for begin in range(0, len(order), window):
        for index in sorted(order[begin : begin + window], key=lambda index: -lengths[index]):
            fits = [(free, k) for k, (free, _) in enumerate(still_open) if free >= lengths[index]]
            if fits:
                free, k = min(fits)
                still_open[k] = (free - lengths[index], [*still_open[k][1], index])
            else:
                still_open.append((capacity - lengths[index], [index]))
        closed += [row for free, row in still_open if free <= 0.03 * capacity]
        still_open = [(free, row) for free, row in still_open if free > 0.03 * capacity]
    return closed + [row for _, row in still_open]


@given(LENGTHS, st.randoms(), st.integers(100, 400), st.sampled_from([1, 7, 50, 2048]))
@settings(max_examples=200, deadline=None)
def test_filled_rows_are_those_of_looking_at_every_open_row(lengths, random, capacity, window):
    order = random.sample(range(len(lengths)), random.randint(1, len(lengths)))
    assert list(fill_rows(lengths, order, capacity, window)) == by_looking_at_every_open_row(
        lengths, order, capacity, window
    )


def test_filling_takes_no_longer_per_example_where_no_row_is_ever_full():
    """Rows of 96 % stay open to the end: looking at each of them took minutes for so many."""
    lengths = [96] * 60_000
    began = time.process_time()
    rows = fill_rows(lengths, range(len(lengths)), 100)
    assert len(rows) == 60_000 and rows[59_999] == [59_999] and rows[-2:] == [[59_998], [59_999]]
    assert time.process_time() - began < 5


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
    assert list(orders[0].epoch(0)) != list(orders[0].epoch(1))


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
    data = DataConfig(source=source, path=str(public_data / source), languages=languages, limit_per_language=1500)
    records, _ = load_records(data, ("bn", "de", "th", "te", "en"), pointing=())
    packing = PackingConfig(row_tokens=4096, max_prompt_tokens=1024, **batch)
    name = "question_translation" if source == "gsmtrans" else "alpaca"
    tokenize = ExampleTokenizer(tokenizer, special_tokens(tokenizer, config), template(name), packing)
    lengths = [example.merged_length for example in tokenize(records, with_target=False)]
    order = StepOrder(lengths, packing, seed=0, ranks=DataParallelRank())
    assert order.fill(len(order.epoch(0))) >= 0.97


def test_an_example_longer_than_a_row_is_refused():
    with pytest.raises(UserError, match="300 tokens but packing.row_tokens is 200"):
        StepOrder([10, 300], PackingConfig(row_tokens=200, global_batch_size=2), 0, DataParallelRank())


def test_no_examples_are_refused():
    with pytest.raises(UserError, match="no examples are left"):
        StepOrder([], PackingConfig(global_batch_size=2), 0, DataParallelRank())
