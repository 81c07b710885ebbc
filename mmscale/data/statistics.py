"""Rows, faults and lengths of a data set, none of whose records is held."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mmscale.config.data import DataConfig
from mmscale.data import filters
from mmscale.data.loading import DataAccount
from mmscale.data.sharing import Compared, InPieces, Whole, shared_set

Lengths = Callable[[Sequence[str]], Sequence[int]]
"""Texts -> tokens of each."""


@dataclass(frozen=True)
class DataStatistics:
    account: DataAccount
    lengths: Mapping[str, Sequence[int]]
    """Language -> tokens of the text of each row."""


def flagged_rows(config: DataConfig, run_languages: Sequence[str], name: str) -> list[str]:
    """Origins of the rows that a filter flags."""
    account = _account(shared_set(config.model_copy(update={"drop": (name,)}), run_languages))
    account.refuse_unreadable(config)
    return account.flagged.get(name, [])


def statistics(config: DataConfig, run_languages: Sequence[str], count: Lengths) -> DataStatistics:
    """What a data set that drops nothing holds, and what every built-in filter finds; generated rows are looked at by none.

    UserError where it is unusable.
    """
    plain = InPieces(config, run_languages)
    lengths: dict[str, array[int]] = {code: array("i") for code in plain.languages}
    plain_account = plain.reading.account()
    for piece in plain.pieces(lambda base, number: True):
        plain_account.add(piece.account)
        for code, records in piece.records.items():
            lengths[code].extend(count([record.text for record in records]))
    plain_account.require_usable(config)
    if plain.reading.source.generated:
        return DataStatistics(plain_account, lengths)
    account = _account(Compared(config.model_copy(update={"drop": filters.built_in()}), run_languages))
    account.dropped = 0
    return DataStatistics(account, lengths)


def _account(shared: InPieces | Whole) -> DataAccount:
    """What becomes of every row of a data set that this process alone reads."""
    keys: dict[tuple[int, int], np.ndarray] = {}
    if isinstance(shared, Compared):
        keys = {(base, number): of_piece for base, number, of_piece in shared.keys(lambda base, number: True)}
        shared.compare(keys)
    account = DataAccount(source=shared.config.source, path=shared.config.path)
    for piece in shared.pieces(lambda base, number: True):
        account.add(piece.account)
    return account
