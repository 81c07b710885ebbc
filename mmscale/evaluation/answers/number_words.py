"""Numbers in words, where a library reads them well: text2num for seven European languages, cn2an for Chinese numerals."""

from __future__ import annotations

import re
from fractions import Fraction

from mmscale.evaluation.answers.written_numbers import normalised, numbers

LANGUAGES = frozenset(["en", "de", "fr", "es", "pt", "it", "nl"])
"""Read by text2num."""
_READ = 1000
"""Characters."""
_NUMERAL = "[零〇一二两兩三四五六七八九十百千万萬亿億]+(?:[点點][零〇一二三四五六七八九]+(?!分))?"
_NUMERALS = re.compile(f"(?:(?P<bottom>{_NUMERAL})(?:分之|分の))?(?P<top>{_NUMERAL})")
_SIMPLE = str.maketrans({"萬": "万", "億": "亿", "兩": "两", "點": "点"})
_PARTS = {
    2: "half|halves|halbe|Halbe|Hälfte|demi|demie|medio|media|meio|meia|mezzo|mezza|halve",
    3: "thirds?|Drittel|tiers|tercios?|terços?|terzi|terzo|derde",
    4: "quarters?|Viertel|quarts?|cuartos?|quartos?|quarti|quarto|kwart",
}
"""Words for a half, a third and a quarter, which text2num leaves as they are."""
_PART_WORDS = [(size, re.compile(rf"(\d+)[\s-](?:{words})\b")) for size, words in _PARTS.items()]
_AND_A_HALF = re.compile(r"\b(\w+?)(?:und)?einhalb\b|\b(anderthalb)", re.IGNORECASE)
"""German, which text2num does not read."""
_ORDINAL_PART = re.compile(r"(\d+)[\s-](\d+)(?:rds?|ths?)\b")
_ORDINAL = re.compile(r"\b\d+(?:st|nd|rd|th|e|er|ère|ème|º|ª|\.)(?=\s)")


def in_words(text: str, language: str) -> list[Fraction]:
    """The numbers in words of a text, in order; of a long one, of its end. None where it has digits."""
    if re.search(r"\d", text):
        return []
    text = text[-_READ:]
    if language in LANGUAGES:
        return _european(text, language)
    if language in ("zh", "ja"):
        runs = list(_NUMERALS.finditer(text.translate(_SIMPLE)))
        longest = max((len(run[0]) for run in runs), default=0)  # 一 alone is often no number: 一共, 一起
        return [value for run in runs if len(run[0]) == longest for value in [_part(run)] if value is not None]
    return []


def _european(text: str, language: str) -> list[Fraction]:
    from text_to_num import alpha2digit

    text = _AND_A_HALF.sub(lambda m: f"{m[1]} komma fünf" if m[1] else "eins komma fünf", text)
    digits = alpha2digit(text.replace("-", " "), language, threshold=0)
    digits = re.sub(r"\bpoint (?=\d)", "0.", digits)
    for size, words in _PART_WORDS:
        digits = words.sub(rf"\1/{size}", digits)
    digits = _ORDINAL.sub(" ", _ORDINAL_PART.sub(r"\1/\2", digits))
    values = [one.value for one in numbers(normalised(digits), "en")]
    if len(text.split()) > 2:  # "one" is an article or a pronoun more often than a number
        values = [value for value in values if value != 1]
    return values


def _part(run: re.Match[str]) -> Fraction | None:
    """三分之二 is two thirds; 百分之二十, per cent, is the number before the sign."""
    top, bottom = _numeral(run["top"]), _numeral(run["bottom"]) if run["bottom"] else Fraction(1)
    if top is None or not bottom:
        return None
    return top if bottom in (100, 1000) else top / bottom


def _numeral(run: str) -> Fraction | None:
    import cn2an

    if run[0] in "百千万亿":
        run = "一" + run  # Japanese leaves the one out
    try:
        return Fraction(str(cn2an.cn2an(run, "smart")))
    except (ValueError, KeyError):  # cn2an looks the units of some runs up that are no number
        return None
