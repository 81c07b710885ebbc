"""Rests of the original that nobody translated: words of it that stand in the translation one behind the other."""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from mmscale.corpus.checks.base import RowScore, by_row, sides, worst
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
    together, sentences = set(pairwise(theirs)), _sentences(theirs)
    best, begin = (0.0, ""), 0
    for i in range(1, len(ours) + 1):
        if i == len(ours) or (ours[i - 1], ours[i]) not in together:
            best = max(best, _weighed(ours[begin:i], sentences))
            begin = i
    return best


def _sentences(tokens: list[str]) -> list[str]:
    """Those of more than two words, as text."""
    sentences: list[list[str]] = [[]]
    for token in tokens:
        if token in _ENDS:
            sentences.append([])
        else:
            sentences[-1].append(token)
    return [" ".join(sentence) for sentence in sentences if len(sentence) > 2]


def _weighed(run: list[str], sentences: list[str]) -> tuple[float, str]:
    telling = sum(_tells(token) for token in run)
    if len(run) < 2 or not telling:
        return 0.0, ""
    text = " ".join(run)
    scale = 3 if any(_UNSPACED.match(token) for token in run) else 1
    return telling / scale + any(sentence in text for sentence in sentences), text


def score(row: CorpusRow) -> RowScore | None:
    """How many words of the original stand in the translation in a row, names left out, in the worse of question and rationale."""
    if row.source_language in (None, row.language):
        return None
    scores = []
    for name, text, original in sides(row):
        weight, run = longest_rest(text, original)
        scores.append(RowScore(weight, f"the {name} has {run[:80]!r} as the original does"))
    return worst(scores)


CHECK = by_row(score, threshold=2.5)
"""Words of the original in a row that nobody translated."""
