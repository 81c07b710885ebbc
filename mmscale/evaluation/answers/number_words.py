"""Numbers in words, where a library reads them well: text2num for seven European languages, cn2an for Chinese numerals."""

from __future__ import annotations

import re
from fractions import Fraction

from mmscale.evaluation.answers.written_numbers import normalised, numbers

LANGUAGES = frozenset(["en", "de", "fr", "es", "pt", "it", "nl"])
"""Read by text2num."""
_READ = 1000
"""Characters."""
_NUMERALS = re.compile("[零〇一二两兩三四五六七八九十百千万萬亿億]+")
_SIMPLE = str.maketrans({"萬": "万", "億": "亿", "兩": "两"})
_PARTS = {
    2: "half|halves|halbe|Halbe|Hälfte|demi|demie|medio|media|meio|meia|mezzo|mezza|halve",
    3: "thirds?|Drittel|tiers|tercios?|terços?|terzi|terzo|derde",
    4: "quarters?|Viertel|quarts?|cuartos?|quartos?|quarti|quarto|kwart",
}
"""Words for a half, a third and a quarter, which text2num leaves as they are."""
_PART_WORDS = [(size, re.compile(rf"(\d+)[\s-](?:{words})\b")) for size, words in _PARTS.items()]
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
        runs = _NUMERALS.findall(text.translate(_SIMPLE))
        longest = max(map(len, runs), default=0)  # 一 alone is often no number: 一共, 一起
        return [value for run in runs if len(run) == longest for value in [_numeral(run)] if value is not None]
    return []


def _european(text: str, language: str) -> list[Fraction]:
    from text_to_num import alpha2digit

    digits = alpha2digit(text.replace("-", " "), language, threshold=0)
    digits = re.sub(r"\bpoint (?=\d)", "0.", digits)
    for size, words in _PART_WORDS:
        digits = words.sub(rf"\1/{size}", digits)
    digits = _ORDINAL.sub(" ", _ORDINAL_PART.sub(r"\1/\2", digits))
    found = [one.value for one in numbers(normalised(digits), "en")]
    if len(text.split()) > 2:  # "one" is an article or a pronoun more often than a number
        found = [value for value in found if value != 1]
    return found


def _numeral(run: str) -> Fraction | None:
    import cn2an

    if run[0] in "百千万亿":
        run = "一" + run  # Japanese leaves the one out
    try:
        return Fraction(str(cn2an.cn2an(run, "smart")))
    except ValueError:
        return None
