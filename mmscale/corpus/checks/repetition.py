"""Repetition loops: a translator that got stuck and said the same again and again."""

from __future__ import annotations

import numpy as np

from mmscale.corpus.checks.base import RowScore, by_row
from mmscale.corpus.rows import CorpusRow

_LONGEST_UNIT = 120
"""Characters of what is said again."""
_LEAST_SPAN = 24
"""Characters over which a loop goes."""
_MANIFOLD = 0.9
"""Share of different pieces of four characters from which on nothing stands in a row often."""
_READ = 20_000
"""Characters of a text; a loop that begins behind them is in one that its length tells of."""


def loop(text: str) -> tuple[float, str]:
    """(how often what is repeated most stands there in a row, counting short units less; what it is).

    A unit of one to three characters is a rule or a number such as 1111, so that a loop has to go over some length: the
    count is of units of at least four characters.
    """
    plain = " ".join(text[:_READ].split())
    best, unit = 1.0, ""
    if len({plain[i : i + 4] for i in range(len(plain))}) > _MANIFOLD * len(plain):
        return best, unit
    codes = np.array([ord(c) for c in plain], dtype=np.uint32)
    for period in range(1, min(_LONGEST_UNIT, len(codes) // 2) + 1):
        end, length = _longest_run(codes[period:] == codes[:-period])
        span = length + period
        times = span / max(period, 4)
        if length and span >= _LEAST_SPAN and times > best:
            best, unit = times, "".join(map(chr, codes[end - period : end]))
    return best, unit


def _longest_run(same: np.ndarray) -> tuple[int, int]:
    """(where it ends, length) of the longest run of trues."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], same.view(np.int8), [0]))))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[1::2][longest]), int(lengths[longest])


def score(row: CorpusRow) -> RowScore | None:
    """How often the same stands in a row in the worse of question and rationale, and does not in the original."""
    pairs = [(row.question, row.source_question), (row.rationale, row.source_rationale)]
    scores = []
    for text, original in pairs:
        times, unit = loop(text)
        if times > CHECK.threshold and original:
            times -= loop(original)[0] - 1
        scores.append(RowScore(times, f"{unit.strip()[:60]!r} stands {times:.0f} times in a row"))
    return max(scores)


CHECK = by_row(score, threshold=3.5)
"""The same words or characters again and again, in a row."""
