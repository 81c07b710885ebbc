"""Rests of the original that nobody translated: words of it that stand in the translation one behind the other."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from mmscale.corpus.checks.base import Score, by_row, sides, worst
from mmscale.corpus.rows import CorpusRow

_NO_WORDS = re.compile(r"<<[^<>]*>>|\$[^$]*\$|\\[A-Za-z]+(?:\{[^{}]*\})*|https?://\S+|`[^`]*`")
_WORD = re.compile(r"[^\W\d_]+|[.!?。！？।॥]")
_ENDS = frozenset(".!?。！？।॥")
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]")


def _tokens(text: str) -> list[str]:
    """Words and the ends of sentences; of a script that parts no words, characters."""
    plain = unicodedata.normalize("NFC", _NO_WORDS.sub(" ", text))
    return [token for word in _WORD.findall(plain) for token in (list(word) if _UNSPACED.search(word) else [word])]


def _tells(token: str) -> bool:
    """Whether it is a word that is no name."""
    return token not in _ENDS and not token[:1].isupper() and (len(token) > 1 or bool(_UNSPACED.match(token)))


def longest_rest(text: str, original: str) -> tuple[float, str]:
    """(telling words of the longest run that the two have in common, one more for a whole sentence; the run)."""
    ours, theirs = _tokens(text), _tokens(original)
    together = set(pairwise(theirs))
    best, begin = (0.0, ""), 0
    for i in range(1, len(ours) + 1):
        if i == len(ours) or (ours[i - 1], ours[i]) not in together:
            best = max(best, _weighed(ours, begin, i, theirs))
            begin = i
    return best


def _weighed(ours: list[str], begin: int, end: int, theirs: list[str]) -> tuple[float, str]:
    run = ours[begin:end]
    telling = sum(_tells(token) for token in run)
    if len(run) < 2 or not telling:
        return 0.0, ""
    words = [token for token in run if token not in _ENDS]
    whole = (
        len(words) > 2
        and (run[-1] in _ENDS or end == len(ours))
        and (begin == 0 or ours[begin - 1] in _ENDS or run[0] in _ENDS)
    )
    scale = 3 if _UNSPACED.match(words[0]) else 1
    return telling / scale + whole, " ".join(words)


def score(row: CorpusRow) -> Score | None:
    """How many words of the original stand in the translation in a row, names left out, in the worse of question and rationale."""
    if row.source_language in (None, row.language):
        return None
    scores = []
    for name, text, original in sides(row):
        weight, run = longest_rest(text, original)
        scores.append(Score(weight, f"the {name} has {run[:80]!r} as the original does"))
    return worst(scores)


CHECK = by_row(score, threshold=2.5)
"""Words of the original in a row that nobody translated."""
