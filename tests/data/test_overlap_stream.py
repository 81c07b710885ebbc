"""Training rows met one after another give the overlaps of holding all of them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.data.overlap import TextIndex, find_overlaps, normalised
from mmscale.data.records import ParallelSentence, Problem

WORDS = st.lists(st.sampled_from(["one", "two", "three", "four", "five", "Six", "seven"]), min_size=1, max_size=8).map(
    " ".join
)


@pytest.mark.parametrize("threshold", [0.14, 0.8])
@settings(max_examples=10, deadline=None)
@given(train=st.lists(st.tuples(WORDS, WORDS), max_size=12), test=st.lists(WORDS, min_size=1, max_size=5))
def test_rows_met_one_after_another_are_those_of_an_index_of_all(threshold, train, test):
    rows = [ParallelSentence(a, b, "sw", "en", f"train:{i}") for i, (a, b) in enumerate(train)]
    questions = [Problem(question=text, language="en", origin=f"test:{i}") for i, text in enumerate(test)]
    exact, near = find_overlaps(iter(rows), questions, threshold)
    index = TextIndex(((side, row.origin) for row in rows for side in row.sides), threshold)
    texts = {normalised(side) for row in rows for side in row.sides}
    expected = {row.origin: index.nearest(row.text) for row in questions}
    assert {one.test: (one.similarity, one.train) for one in (*exact, *near)} == {
        origin: match for origin, match in expected.items() if match is not None
    }
    assert [one.test for one in exact] == [row.origin for row in questions if normalised(row.text) in texts]
