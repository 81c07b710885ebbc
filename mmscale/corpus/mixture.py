"""How many rows of each source and language a compiled corpus takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mmscale.config.corpus_compile import CompileConfig
from mmscale.errors import unknown_name

Cell = tuple[str, str]
"""(source, language)"""


def targets(available: Mapping[Cell, int], config: CompileConfig) -> tuple[dict[Cell, int], dict[Cell, int]]:
    """(rows of each cell within the caps, rows of it that are taken), of as many as there are.

    The share of a language goes with its weighted rows to the power of 1/T, that of a source within it with its weighted rows. As
    many rows are taken as these shares allow when no cell gives more than `max_repeats` times its rows.
    """
    _require_known(available, [*config.weights, *config.caps])
    capped = _capped(available, config.caps)
    weighted = {cell: capped[cell] * _weight(cell, config.weights) for cell in capped}
    of_language = _sums(weighted, lambda cell: cell[1])
    shares = {
        (source, code): size / of_language[code] * of_language[code] ** (1 / config.temperature)
        for (source, code), size in weighted.items()
        if size
    }
    most = min((config.max_repeats * capped[cell] / share for cell, share in shares.items()), default=0)
    return capped, {cell: round(most * shares.get(cell, 0)) for cell in capped}


def _sums(sizes: Mapping[Cell, float], of: Callable[[Cell], str]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for cell, size in sizes.items():
        sums[of(cell)] = sums.get(of(cell), 0) + size
    return sums


def _names(cell: Cell) -> tuple[str, str, str]:
    return f"{cell[0]}.{cell[1]}", cell[0], cell[1]


def _require_known(available: Iterable[Cell], names: Iterable[str]) -> None:
    known = {name for cell in available for name in _names(cell)}
    for name in names:
        if name not in known:
            raise unknown_name("source or language of compile.weights and compile.caps", name, known)


def _weight(cell: Cell, weights: Mapping[str, float]) -> float:
    """The product of what is said of a cell, its source and its language."""
    product = 1.0
    for name in _names(cell):
        product *= weights.get(name, 1)
    return product


def _capped(available: Mapping[Cell, int], caps: Mapping[str, int]) -> dict[Cell, int]:
    """Rows within the caps of cells, of sources and of languages, in this order; a cap is shared by those it is over, by their rows."""
    rows = dict(available)
    for kind in range(3):
        for name in sorted({_names(cell)[kind] for cell in rows} & caps.keys()):
            members = sorted(cell for cell in rows if _names(cell)[kind] == name)
            rows |= _shared(caps[name], {cell: rows[cell] for cell in members})
    return rows


def _shared(cap: int, rows: Mapping[Cell, int]) -> dict[Cell, int]:
    """At most `cap` rows together, by largest remainders."""
    total = sum(rows.values())
    if total <= cap:
        return dict(rows)
    shared = {cell: cap * size // total for cell, size in rows.items()}
    by_rest = sorted(rows, key=lambda cell: (-(cap * rows[cell] % total), cell))
    for cell in by_rest[: cap - sum(shared.values())]:
        shared[cell] += 1
    return shared
