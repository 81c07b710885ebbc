r"""Numbers as people write them: marks by shape and by language, native digits, scales, fractions, LaTeX."""

from __future__ import annotations

import functools
import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

from mmscale.evaluation.answers.words import (
    CURRENCY_LETTERS,
    MINUS,
    MYRIADS,
    OF_MONEY,
    PARTS_OF_UNITS,
    SCALES,
    SCALES_BEFORE,
)


@dataclass(frozen=True)
class Number:
    """A number in a text."""

    begin: int
    end: int
    """Its place, in characters."""
    readings: tuple[Fraction, ...]
    """What it may mean, the likeliest first; two only where its one mark is as likely a thousands mark as a decimal one,
    and of a quantity in two units (3 hours 30 minutes: 3.5 or 210)."""

    @property
    def value(self) -> Fraction:
        return self.readings[0]


_FULL_WIDTH = str.maketrans(
    {
        "，": ",",
        "．": ".",
        "－": "-",
        "／": "/",
        "＄": "$",
        "％": "%",
        "：": ":",
        "＝": "=",
        "（": "(",
        "）": ")",
        "＋": "+",
        "٫": ".",
        "٬": ",",
        "٪": "%",
        "\u2010": "-",
        "\u2011": "-",
    }
)
_LATEX = [
    (re.compile(r"<<[^<>]*>>"), ""),  # GSM8K's calculator marks
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\!"), ""),
    (re.compile(r"\\[,;: ]|~"), "\u202f"),
    (re.compile(r"\\([$%&#])"), r"\1"),
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname|mbox|emph)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\(?:left|right|displaystyle|boxed|fbox)(?![A-Za-z])"), ""),
    (re.compile(r"\\(?:times|cdot|ast)(?![A-Za-z])"), "×"),
    (re.compile(r"\\div(?![A-Za-z])"), "÷"),
    (re.compile(r"\\(?:approx|simeq|sim)(?![A-Za-z])"), "≈"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b"), "°"),
    (re.compile(r"\\[()\[\]]"), " "),
    (re.compile(r"(?<=\d)(?: \w+)?(?: and a half| y medi[ao]| et demie?| e mei[ao]| e mezz[ao]| с половиной)\b"), ".5"),
    (re.compile(r"(?<=\d)(?: ?(?:个|個|小时|時間|年|分|日))?半(?=[^分额])"), ".5"),
    (re.compile(r"(?<=[^\W\d_])\s*\^\s*\{?-?\d+\}?"), ""),  # the exponent of a unit: cm^2
    (re.compile(r"(?<!\d)(\d{1,4})\s?(?:分之|分の|분의)\s?(\d{1,4})(?!\d)"), r"\2/\1"),
]
_SPACES = "\u00a0\u202f\u2009'’_"
_MARKED = re.compile(rf"(?<=\d)[{_SPACES}](?=\d{{3}}(?!\d))")
_SPACED = re.compile(r"(?<![\d.,])(\d{1,3})((?: \d{3})+)(?![\d])")


def normalised(text: str) -> str:
    """A text with ASCII digits and marks, its LaTeX and calculator marks reduced to plain writing."""
    text = "".join(
        str(unicodedata.decimal(c)) if not c.isascii() and unicodedata.decimal(c, None) is not None else c
        for c in text.translate(_FULL_WIDTH)
    )
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    text = _MARKED.sub("", text)
    return _SPACED.sub(lambda m: m.group(1) + m.group(2).replace(" ", ""), text)


_CURRENCY = r"(?:US\$|R\$|[$€£¥₹฿₽₩]|Rs\.?|USD|EUR)"
_DIGITS = r"(?:\d+(?:[.,]\d+)*|(?<![\w.,])[.,]\d+)"
"""A mark behind a letter opens no number: 选B,18."""
_VULGAR = "".join(chr(c) for c in [*range(0xBC, 0xBF), *range(0x2150, 0x215F)])
_MYRIAD = r"(?:千(?![克米瓦卡])|만(?!큼)|조(?![각금건])|[百万萬億亿兆백천억])"
"""千克 and 千米 are units; 만큼 is "as much as", 조각 a piece."""
_SCALE = "|".join(sorted(map(re.escape, SCALES), key=len, reverse=True))
_MINUS = "|".join(rf"\b{word}\b" if word.isascii() else word for word in MINUS)
_SIGN = (
    rf"(?<![\w)\]}}%])(?<![\d)\]}}%]\s)[-\u2212–](?=(?:{_CURRENCY}\s?)?[\d\\.])"  # attached, and nothing to subtract from
    rf"|(?<=[=(])\s?[-\u2212]\s?(?=[\d$\\])"
    rf"|(?<!\d)(?<!\d\s)(?:{_MINUS})\s*(?=(?:{_CURRENCY}\s?)?[\d\\])"
)
_NUMBER = re.compile(
    rf"(?:(?<![\w\\])(?P<before>{'|'.join(SCALES_BEFORE)})\s+)?(?P<sign>{_SIGN})?(?P<currency>{_CURRENCY}\s?(?P<inner>-(?=\d))?)?"
    rf"(?:(?P<mixed>\d+)?\s?\\frac\s*\{{\s*(?P<top>-?[\d.,]+)\s*\}}\s*\{{\s*(?P<bottom>[\d.,]+)\s*\}}"
    rf"|(?:(?P<whole>\d+)\s+)?(?P<numerator>\d+(?:,\d{{3}})*)\s?[/⁄]\s?(?P<denominator>\d+)(?![\d/]|[.,]\d)"
    rf"|(?P<vulgar_whole>\d+)?\s?(?P<vulgar>[{_VULGAR}])"
    rf"|(?P<base>{_DIGITS})\s?[×x*]\s?10\s?\^\s?\{{?(?P<power>-?\d{{1,3}})\}}?"
    rf"|(?<![\d.,])(?P<root>\d{{1,4}})\s?\^\s?\{{?(?P<exponent>\d{{1,3}})\}}?"
    rf"|(?P<scientific>\d+(?:\.\d+)?[eE][+-]?\d{{1,3}})(?!\w)"
    rf"|(?P<composite>{_DIGITS}\s?{_MYRIAD}+(?:[\s零]?{_DIGITS}{_MYRIAD}+)*(?:(?:(?<=[만억천백])\s|零)?{_DIGITS}(?!\s?{_MYRIAD}))?)"
    rf"|(?P<digits>{_DIGITS})(?:[\s-]?(?P<scale>{_SCALE})(?![^\W\u0e00-\u0e7f\u0c00-\u0c7f]))?)"
)
_GROUPED = (
    re.compile(r"\d{1,3}(?:[.,]\d{3})+$"),
    re.compile(r"\d{1,2}(?:,\d{2})+,\d{3}$"),  # Indian: 1,25,000
    re.compile(r"\d{1,4}(?:,\d{4})+$"),  # by myriads
)
_NAMED = re.compile(r"(?<![^\W\d_])[A-Za-z]{1,3}$")
_MONEY = re.compile(rf"(?:{'|'.join(CURRENCY_LETTERS)})$")
_TWO_UNITS = [
    (
        re.compile(
            rf"(?<![\d.,])(\d+)[\s-]?(?:{unit})[\s,]*(?:(?:and|und|et|y|e|en|и|na|và|dan|এবং|और)\s)?(\d{{1,2}})(?:{part})(?![A-Za-zÀ-ɏЀ-ӿ])"
        ),
        size,
    )
    for unit, part, size in PARTS_OF_UNITS
] + [(re.compile(r"(?<!\w)(?:saa|masaa) (\d+) na dakika (\d{1,2})(?!\d)", re.IGNORECASE), 60)]
"""A quantity in a unit and its part, and how many parts the unit has."""


_LONGEST = 4000
"""Characters of a number; Python reads no longer ones."""


@functools.lru_cache(maxsize=256)
def decimal_comma(language: str) -> bool:
    """Whether a language writes 1,5 for one and a half (Unicode CLDR)."""
    from babel import Locale, UnknownLocaleError  # imports slowly

    try:
        symbols = Locale.parse(language.replace("-", "_")).number_symbols
    except (UnknownLocaleError, ValueError):
        return False
    return bool(symbols.get("latn", {}).get("decimal") == ",")


def readings(digits: str, language: str) -> tuple[Fraction, ...]:
    """What a run of digits with dots and commas may mean; empty where it is a list such as 1,2,3.

    Two different marks: the last is the decimal one. One mark several times: thousands. One mark once: thousands only
    where three digits follow and one to three that are no zero precede, and then by the language's custom. Three zeros
    behind a mark are thousands in every language but English, where 18.000 is how a program prints 18.
    """
    marks = [c for c in digits if c in ".,"]
    if not marks:
        return (Fraction(digits),)
    if len(set(marks)) == 2:
        whole, part = digits.rsplit(marks[-1], 1)
        if marks.count(marks[-1]) > 1 or not any(shape.match(whole) for shape in _GROUPED):
            return ()
        return (_decimal(whole, part),)
    if len(marks) > 1:
        return (_whole(digits),) if any(shape.match(digits) for shape in _GROUPED) else ()
    whole, part = digits.split(marks[0])
    as_decimal = _decimal(whole, part)
    if len(part) != 3 or not 1 <= len(whole) <= 3 or whole.startswith("0"):
        return (as_decimal,)
    own_decimal = "," if decimal_comma(language) else "."
    grouped = marks[0] != own_decimal or (part == "000" and language != "en")
    both = (_whole(digits), as_decimal) if grouped else (as_decimal, _whole(digits))
    return both[:1] if language == "en" else both


def _whole(digits: str) -> Fraction:
    return Fraction(re.sub("[.,]", "", digits))


def _decimal(whole: str, part: str) -> Fraction:
    return Fraction((re.sub("[.,]", "", whole) or "0") + "." + (part or "0"))


def _composite(text: str, language: str) -> Fraction | None:
    """1億2000万, 3万2000, 1万5千, 2百万: each scale multiplies what stands before it."""
    total = section = Fraction(0)
    for digits, marks in re.findall(rf"({_DIGITS})\s?({_MYRIAD}*)", text):
        value = readings(digits, language)
        if not value:
            return None
        part, small = value[0], True
        for mark in marks:
            scale = MYRIADS[mark]
            if scale < 10**4:
                part *= scale
            elif small:
                total, part, section, small = total + (section + part) * scale, Fraction(0), Fraction(0), False
            else:
                total *= scale  # 2万億
        section += part
    return total + section


def _ratio(top: str, bottom: str, whole: str | None, language: str) -> tuple[Fraction, ...]:
    tops, bottoms = readings(top.lstrip("-"), language), readings(bottom, language)
    if not tops or not bottoms or bottoms[0] == 0:
        return ()
    value = tops[0] / bottoms[0] * (-1 if top.startswith("-") else 1)
    return (Fraction(whole or 0) + value,)


def _meant(match: re.Match[str], language: str) -> tuple[Fraction, ...]:
    """The readings of a match without its sign."""
    groups = match.groupdict()
    if groups["top"]:
        return _ratio(groups["top"], groups["bottom"], groups["mixed"], language)
    if groups["numerator"]:
        return _ratio(groups["numerator"], groups["denominator"], groups["whole"], language)
    if groups["vulgar"]:
        part = Fraction(unicodedata.numeric(groups["vulgar"])).limit_denominator(100)
        return (Fraction(groups["vulgar_whole"] or 0) + part,)
    if groups["base"]:
        return tuple(value * Fraction(10) ** int(groups["power"]) for value in readings(groups["base"], language))
    if groups["root"]:
        return (Fraction(groups["root"]) ** int(groups["exponent"]),)
    if groups["scientific"]:
        return (Fraction(groups["scientific"]),)
    if groups["composite"]:
        value = _composite(groups["composite"], language)
        return () if value is None else (value,)
    return tuple(value * (_scale(match) or 1) for value in readings(groups["digits"], language))


def _is_name(text: str, match: re.Match[str]) -> bool:
    """Whether the digits belong to a name: x2, CO2, A4."""
    if match.start("digits") < 0 or match.start() != match.start("digits"):
        return False
    letters = _NAMED.search(text[max(0, match.start() - 4) : match.start()])
    return letters is not None and _MONEY.search(letters[0]) is None


def numbers(text: str, language: str) -> list[Number]:
    """Every number of a normalised text, in order; a list such as 1,2,3 is three. Digits of a name, as in x2, are none."""
    joined = _in_two_units(text)
    for one in joined:
        text = text[: one.begin] + " " * (one.end - one.begin) + text[one.end :]
    return sorted([*_single(text, language), *joined], key=lambda one: one.begin)


def _in_two_units(text: str) -> list[Number]:
    """Quantities such as 3 hours 30 minutes: 3.5 or 210."""
    return [
        Number(match.start(), match.end(2), (unit + part / size, unit * size + part))
        for pattern, size in _TWO_UNITS
        for match in pattern.finditer(text)
        for unit, part in [(Fraction(match[1]), Fraction(match[2]))]
    ]


def _single(text: str, language: str) -> list[Number]:
    single: list[Number] = []
    last_scale = 0
    for match in _NUMBER.finditer(text):
        if _is_name(text, match) or match.end() - match.start() > _LONGEST:
            continue
        values, scale = _meant(match, language), _scale(match)
        if not values:
            single += _listed(match)
        elif scale and scale < last_scale and text[single[-1].end : match.start()] in (" ", ", "):
            single[-1] = Number(single[-1].begin, match.end(), (single[-1].value + values[0],))  # 1 lakh 25 thousand
        else:
            negative = bool(match.group("sign")) != bool(match.group("inner"))
            single.append(Number(match.start(), match.end(), tuple(-v if negative else v for v in values)))
        last_scale = scale
    return single


def _scale(match: re.Match[str]) -> int:
    """What a scale word multiplies a number by; 0 without one."""
    behind, before = match.group("scale"), match.group("before")
    if behind in OF_MONEY and not match.group("currency"):
        behind = None
    return (SCALES[behind] if behind else 1) * (SCALES_BEFORE[before] if before else 1) if behind or before else 0


def _listed(match: re.Match[str]) -> list[Number]:
    """The members of a list; none for a fraction that means nothing, such as 3/0."""
    start, digits = match.start("digits"), match.group("digits") or ""
    return [Number(start + one.start(), start + one.end(), (Fraction(one[0]),)) for one in re.finditer(r"\d+", digits)]
