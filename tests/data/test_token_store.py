"""Tokens on disk equal tokens in memory; their parts are made once, by any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.data import token_store
from mmscale.data.segments import TokenizedExample
from mmscale.data.token_store import PartRun, TokenStore, merged_lengths
from mmscale.errors import UserError
from tests.flips import flips
from tests.tokens import stored

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=6).map(tuple)
EXAMPLES = st.lists(
    st.builds(
        TokenizedExample,
        prompt_ids=IDS,
        target_ids=IDS,
        encoder_ids=IDS,
        language=st.sampled_from(["sw", "th", ""]),
        origin=st.text(max_size=8),
        truncated=st.booleans(),
    ),
    max_size=17,
)


@settings(max_examples=40, deadline=None)
@given(examples=EXAMPLES)
def test_what_is_read_is_what_was_written(tmp_path_factory, examples):
    store = stored(tmp_path_factory.mktemp("tokens"), examples, size=5)
    assert len(store) == len(examples) and list(store) == examples
    assert store[:2] == examples[:2] and store[-3:] == examples[-3:]
    lengths = [e.merged_length for e in examples]
    assert merged_lengths(store).tolist() == merged_lengths(examples).tolist() == lengths
    with pytest.raises(IndexError):
        store[len(examples)]


def test_runs_and_numbers_say_which_examples_there_are_in_which_order(tmp_path):
    """Two languages beside each other in both parts are one after another; those held out are in no other store."""
    examples = [
        TokenizedExample(prompt_ids=(i,), target_ids=(2,) * (i + 1), language="sw", origin=f"a:{i}") for i in range(10)
    ]
    first, second = (run.part for run in stored(tmp_path, examples, size=5).runs)
    runs = [PartRun(first, 0, 2), PartRun(second, 0, 1), PartRun(first, 2, 3), PartRun(second, 1, 4)]
    order = [0, 1, 5, 2, 3, 4, 6, 7, 8, 9]
    store = TokenStore(tmp_path, "train", runs)
    assert list(store) == [examples[i] for i in order]
    chosen = TokenStore(tmp_path, "train", runs, np.array([1, 2, 9], dtype=np.int32))
    assert list(chosen) == [examples[i] for i in (1, 5, 9)]
    assert merged_lengths(chosen).tolist() == [examples[i].merged_length for i in (1, 5, 9)]
    assert chosen.digest() == stored(tmp_path / "other", [examples[i] for i in (1, 5, 9)], size=2).digest()


def test_no_more_parts_are_open_than_there_may_be(tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "_OPEN_PARTS", 2)
    examples = [TokenizedExample(prompt_ids=(i,), target_ids=(2,), origin=f"a:{i}") for i in range(12)]
    store = stored(tmp_path, examples, size=2)
    assert list(store) == examples == list(store)
    assert store._examples.cache_info().currsize == 2


def test_a_damaged_part_is_named(tmp_path):
    store = stored(
        tmp_path, [TokenizedExample(prompt_ids=(1,), target_ids=(2,), encoder_ids=(), language="sw", origin="a:1")]
    )
    file = tmp_path / "train-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(UserError, match="train-00000.safetensors is damaged"):
        store[0]


def test_every_flipped_bit_of_a_part_is_refused(tmp_path):
    examples = [
        TokenizedExample(prompt_ids=(1, i), target_ids=(2,), encoder_ids=(i,), language="sw", origin=f"a:{i}")
        for i in range(40)
    ]
    store = stored(tmp_path, examples)
    assert list(store) == examples
    file = tmp_path / "train-00000.safetensors"
    for where in flips(file, 100):
        with pytest.raises(UserError, match="is damaged"):
            TokenStore(tmp_path, "train", store.runs)[0]
            pytest.fail(f"the flip at {where} was not seen")


def test_a_part_in_the_place_of_another_is_refused(tmp_path):
    examples = [TokenizedExample(prompt_ids=(i,), target_ids=(2,), language="sw", origin="a") for i in range(4)]
    runs = stored(tmp_path, examples, size=2).runs
    first, second = (tmp_path / f"train-0000{number}.safetensors" for number in (0, 1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / first.name).write_bytes(first.read_bytes())
    first.write_bytes(second.read_bytes())
    for folder in (tmp_path, tmp_path / "other"):
        with pytest.raises(UserError, match="is damaged .it is a part of something else"):
            TokenStore(folder, "train", runs)[0]
