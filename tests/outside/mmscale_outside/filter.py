"""Filters of this package."""

from collections.abc import Sequence

from mmscale.data.records import Record


def one_word_question(records: Sequence[Record], source: str) -> set[int]:
    """The question is a single word."""
    return {i for i, record in enumerate(records) if len(record.text.split()) == 1}
