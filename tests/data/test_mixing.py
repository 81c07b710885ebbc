"""Shares of data sets: which examples an epoch goes over."""

from __future__ import annotations

import pytest

from mmscale.config.data import PackingConfig
from mmscale.data.mixing import Mixture
from mmscale.data.packing import DataParallelRank, StepOrder

LENGTHS = [10] * 20 + [30] * 100


def test_an_epoch_holds_the_shares_and_goes_over_the_scarcest_set_once():
    mixture = Mixture(sizes=(20, 100), shares=(1, 3))
    chosen = mixture.epoch(LENGTHS, seed=1, epoch=0)
    assert sorted(chosen[:20]) == list(range(20)) and len(set(chosen[20:])) == 60
    assert Mixture(sizes=(20, 100), shares=(1, 100)).per_epoch(LENGTHS) == [1, 100]


def test_shares_of_tokens_count_tokens():
    mixture = Mixture(sizes=(20, 100), shares=(1, 3), by_tokens=True)
    chosen = mixture.epoch(LENGTHS, seed=1, epoch=0)
    tokens = [sum(LENGTHS[i] for i in chosen if (i < 20) == first) for first in (True, False)]
    assert tokens == [200, 600]


def test_epochs_go_on_where_the_last_one_stopped_so_that_no_example_is_seen_twice_before_all_are_seen():
    mixture = Mixture(sizes=(20, 100), shares=(1, 3))
    seen = [i for epoch in range(5) for i in mixture.epoch(LENGTHS, seed=1, epoch=epoch) if i >= 20]
    for turn in range(3):
        assert sorted(seen[100 * turn : 100 * (turn + 1)]) == list(range(20, 120))
    assert seen[:100] != seen[100:200]


@pytest.mark.parametrize("batch", [{"global_batch_size": 8}, {"global_batch_tokens": 300}])
def test_steps_of_a_mixture_are_a_function_of_seed_and_number_and_the_same_for_every_layout(batch):
    packing = PackingConfig(row_tokens=100, **batch)
    mixture = Mixture(sizes=(20, 100), shares=(1, 3))

    def order(seed=1, rank=0, size=1):
        return StepOrder(LENGTHS, packing, seed, DataParallelRank(rank, size), mixture)

    straight = order()
    visited = [straight.step(n) for n in range(25)]
    assert [order().step(n) for n in reversed(range(25))] == visited[::-1] and order(2).step(0) != visited[0]
    first = [i for _, _, rows in (straight.step(n) for n in range(straight.steps_in(1))) for row in rows for i in row]
    assert sorted(first) == sorted(mixture.epoch(LENGTHS, 1, 0))
    if "global_batch_size" in batch:
        for step in (0, 12):
            both = sorted(i for rank in (0, 1) for row in order(1, rank, 2).step(step)[2] for i in row)
            assert both == sorted(i for row in visited[step][2] for i in row)
