"""Tokens on disk equal tokens in memory; their parts are made once, by any number of processes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.data import token_store
from mmscale.data.segments import TokenizedExample
from mmscale.data.token_store import TokenStore, content_of, merged_lengths, token_folder, token_parts
from mmscale.errors import UserError
from tests.flips import flips

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


def stored(folder, examples):
    for part in token_parts("train", len(examples)):
        token_folder(folder).make(part, lambda part=part: content_of([examples[i] for i in part.rows]))
    return TokenStore(folder, "train", len(examples))


@settings(max_examples=40, deadline=None)
@given(examples=EXAMPLES)
def test_what_is_read_is_what_was_written(tmp_path_factory, examples):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_store, "PART_EXAMPLES", 5)
        store = stored(tmp_path_factory.mktemp("tokens"), examples)
        assert len(store) == len(examples) and list(store) == examples
        assert store[:2] == examples[:2] and store[-3:] == examples[-3:]
        assert merged_lengths(store) == merged_lengths(examples) == [e.merged_length for e in examples]
        with pytest.raises(IndexError):
            store[len(examples)]


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
    assert list(stored(tmp_path, examples)) == examples
    file = tmp_path / "train-00000.safetensors"
    for where in flips(file, 100):
        with pytest.raises(UserError, match="is damaged"):
            TokenStore(tmp_path, "train", 40)[0]
            pytest.fail(f"the flip at {where} was not seen")


def test_a_part_in_the_place_of_another_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(token_store, "PART_EXAMPLES", 2)
    stored(
        tmp_path,
        [
            TokenizedExample(prompt_ids=(i,), target_ids=(2,), encoder_ids=(), language="sw", origin="a")
            for i in range(4)
        ],
    )
    first, second = (tmp_path / f"train-0000{number}.safetensors" for number in (0, 1))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / first.name).write_bytes(first.read_bytes())
    first.write_bytes(second.read_bytes())
    for folder in (tmp_path, tmp_path / "other"):
        with pytest.raises(UserError, match="is damaged .it is a part of something else"):
            TokenStore(folder, "train", 4)[0]
    with pytest.raises(UserError, match="is damaged .it is a part of something else"):
        TokenStore(tmp_path, "train", 3)[2]
