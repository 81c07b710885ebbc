"""Faults of public data sets, each by name: what they look like, found in records of any source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mmscale.data.records import Record
from mmscale.errors import unknown_name

Filter = Callable[[Sequence[Record]], set[int]]
"""Records -> indices of those that show the fault."""

FILTERS: dict[str, Filter] = {}


def get(name: str) -> Filter:
    if name not in FILTERS:
        raise unknown_name("filter", name, FILTERS)
    return FILTERS[name]


def flag(records: Sequence[Record]) -> dict[str, set[int]]:
    """Every filter's findings; filters that find nothing are left out."""
    found = {name: check(records) for name, check in FILTERS.items()}
    return {name: indices for name, indices in found.items() if indices}
