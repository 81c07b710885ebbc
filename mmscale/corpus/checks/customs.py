"""Pairs of numbers that are one and the same by the customs of two languages: clocks, calendars, scales, centuries."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

_SCALES = frozenset(10**power for power in (3, 5, 6, 7, 9, 12))
"""Thousand, lakh, million, crore, billion, trillion; a word for one that is not known here stands behind a number."""
_CLOCK = re.compile(
    r"\d\s?[ap]\.?m\b|o'?clock|\d\s?:\s?\d|\d\s?[hH]\b|noon|midnight|\b(?:Uhr|heures|saa|ore|horas)\b", re.IGNORECASE
)
_MINUTES = re.compile(r"(?<![\d.,:])(\d{1,2})(?:\.(\d{2})(?=\s?[ap]\.?m\b)|\s?[hH:]\s?(\d{2})(?!\d))")
_LATE_MINUTES = re.compile(r"(?<![\d.,:])(\d{1,2})\.(\d{2})(?![\d.,])")
_DATE = re.compile(r"(?<![\d/])(\d{1,2})/(\d{1,2})(?:/((?:\d\d){1,2}))?(?![\d/])")
_AT_LEAST = re.compile(r"\b(?:al|au|ao|du|por lo|pelo|a lo)\s+(?:menos|moins)\b", re.IGNORECASE)
_YEARS = range(1000, 2200)
_BUDDHIST = 543
_ROMAN = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))


class Said(NamedTuple):
    """A number of a text."""

    readings: tuple[Fraction, ...]
    before_word: bool
    """Whether a word follows, which may be one for a scale."""


def plain(text: str, beside: str) -> str:
    """A text with its times of day as hours and minutes apart, full hours without minutes, and the parts of its dates.

    `beside` is the other side of a translation, which tells whether 5.30 is a time and 6/11 a day.
    """
    text = _apart(_MINUTES, _AT_LEAST.sub("", text))
    if _CLOCK.search(beside):
        text = _apart(_LATE_MINUTES, text)
    if _DATE.search(text) and not _DATE.search(beside):
        text = _DATE.sub(
            lambda m: f"{m[1]} ; {m[2]} ; {m[3] or ''}" if int(m[1]) <= 31 and int(m[2]) <= 31 else m[0], text
        )
    return text


def _apart(minutes: re.Pattern[str], text: str) -> str:
    def hours_and_minutes(match: re.Match[str]) -> str:
        hours, rest = [part for part in match.groups() if part]
        return hours if rest == "00" else f"{hours} : {rest}"

    return minutes.sub(hours_and_minutes, text)


def without_pairs(missing: Sequence[Said], new: Sequence[Said], texts: Sequence[str]) -> tuple[list[Said], list[Said]]:
    """What is left of numbers that stand on one side only when each has given up its other writing."""
    clock = any(_CLOCK.search(text) for text in texts)
    rest, alone = list(new), []
    for one in missing:
        same = next((other for other in rest if _are_one(one, other, clock)), None)
        if same is None:
            alone.append(one)
        else:
            rest.remove(same)
    return alone, rest


def _are_one(one: Said, other: Said, clock: bool) -> bool:
    return any(
        _scaled(a, b, one.before_word if a < b else other.before_word)
        or _same_year(a, b)
        or (clock and _same_hour(a, b))
        for a in one.readings
        for b in other.readings
    )


def _scaled(a: Fraction, b: Fraction, before_word: bool) -> bool:
    return before_word and bool(a and b) and max(a / b, b / a) in _SCALES


def _same_year(a: Fraction, b: Fraction) -> bool:
    """1998 and 98, 1980 of the 1980s and 80, 2018 and 2561 of the Thai calendar."""
    low, high = sorted((a, b))
    return (high in _YEARS and low == high % 100) or (low in _YEARS and high - low == _BUDDHIST)


def _same_hour(a: Fraction, b: Fraction) -> bool:
    """3 p.m. and 15, and 9 by the Swahili clock, which begins at six."""
    return min(a, b) >= 0 and max(a, b) <= 24 and (a - b) % 6 == 0


def in_another_form(one: Said, text: str) -> bool:
    """Whether a text has a number as a Roman one or as the end of a name: XVII, WW1."""
    value = one.readings[0]
    if value.denominator != 1 or not 0 < value < 100:
        return False
    return re.search(rf"(?<!\w){_roman(int(value))}(?![A-Z\d])|[^\W\d_]-?0?{value}(?!\d)", text) is not None


def _roman(value: int) -> str:
    letters = ""
    for size, letter in _ROMAN:
        letters += letter * (value // size)
        value %= size
    return letters
