"""Texts that stop in their middle: no full stop where the original has one, its last numbers missing, a translator that ran out."""

from __future__ import annotations

from mmscale.corpus.checks.base import RowScore, by_row, sides, worst
from mmscale.corpus.checks.numbers import differences, said_numbers
from mmscale.corpus.rows import CorpusRow

_ENDS = frozenset(".!?。！？।॥؟…۔።፧:：")
_QUOTES = "\"'»«”“„’‘」』"
_CLOSING = _QUOTES + ")]}）*_ \n\t\xa0\u200b\u200f\u200e"
_SHORT, _SHORT_OF_HAN = 0.8, 0.25
"""Characters per character of the original below which a text without a full stop was cut; people leave it out too."""
_HAN = frozenset(["zh", "ja", "ko"])
_WITHOUT_ENDS = frozenset(["th", "lo", "km", "my"])
"""Languages that write no full stop."""


def _has_end(text: str) -> bool:
    """Whether a text ends as one does, or with what it quotes."""
    return text.rstrip(_CLOSING)[-1:] in _ENDS or text.rstrip()[-1:] in _QUOTES


def _loses_its_end(text: str, original: str, row: CorpusRow) -> str:
    """How the last numbers of the original are missing; "" where they are not."""
    language = row.source_language or "en"
    ours, theirs = said_numbers(text, row.language, original), said_numbers(original, language, text)
    if not theirs or (ours and not set(ours[-1].readings).isdisjoint(theirs[-1].readings)):
        return ""
    missing, new = differences(text, row.language, original, language)
    if new and ours and not set(ours[-1].readings).isdisjoint(new[-1].readings) and len(missing) > len(new) + 1:
        new = new[:-1]  # one that was cut in its middle
    last = any(not set(one.readings).isdisjoint(theirs[-1].readings) for one in missing)
    return f"stops before {theirs[-1].readings[0]}" if last and not new else ""


def _score_of(name: str, text: str, original: str, row: CorpusRow) -> RowScore:
    short = len(text) < (_SHORT_OF_HAN if row.language in _HAN else _SHORT) * len(original)
    if short and row.language not in _WITHOUT_ENDS and _has_end(original) and not _has_end(text):
        return RowScore(1, f"the {name} ends in {text.strip()[-20:]!r}, without a full stop")
    lost = _loses_its_end(text, original, row)
    return RowScore(1, f"the {name} {lost}") if lost else RowScore(0, "")


def score(row: CorpusRow) -> RowScore | None:
    """1 where question or rationale stops before its end."""
    if row.translation is not None and not row.translation.finished:
        return RowScore(1, "the translator ran to the longest text it may write")
    return worst([_score_of(name, text, original, row) for name, text, original in sides(row)])


CHECK = by_row(score, threshold=0)
"""Question or rationale stops before its end."""
