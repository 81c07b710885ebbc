r"""`default`: numbers as people of each language write them.

In this order: the content of the last \boxed, what follows the last "####", the last number of the
response. Understood: native digits (bn, te, th, hi, ar, ur and every other decimal digit of Unicode),
thousands and decimal marks by their shape and the language's custom (1.234,5 · 1 234,5 · 1,234.5 · 70,000),
8万 and 3億, signs, fractions, percentages, currency and units around the number.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from mmscale.evaluation.answers.base import Rule
from mmscale.evaluation.answers.mcot import boxed

DECIMAL_COMMA = frozenset(["de", "es", "et", "fr", "id", "it", "nl", "pl", "pt", "ru", "tr", "vi", "bg", "el"])
"""Languages that write 1.234,5 (Unicode CLDR, numbers/symbols)."""
_MYRIADS = {"万": 10**4, "萬": 10**4, "億": 10**8, "亿": 10**8, "千": 10**3, "百": 10**2}
_SPACES = "\u00a0\u202f\u2009'’"
_GROUPED_SPACE = re.compile(r"(?<![0-9])([0-9]{1,3})((?: [0-9]{3})+)(?![0-9])")
_NUMBER = re.compile(
    r"(?P<sign>(?<![0-9A-Za-z)\]])[-−–])?\s?(?:[$€£¥₹฿₽]\s?)?"
    r"(?:\\d?t?frac\{(?P<top>-?[0-9]+)\}\{(?P<bottom>[0-9]+)\}"
    r"|(?P<numerator>[0-9]+)\s?/\s?(?P<denominator>[0-9]+)(?![0-9/.,])"
    r"|(?P<digits>[0-9]+(?:[.,٫٬][0-9]+)*|[.,][0-9]+)\s?(?P<myriad>[万萬億亿千百]+)?)\s?(?P<percent>[%％])?"
)


def _ascii_digits(text: str) -> str:
    """Every decimal digit of Unicode as 0-9, and full-width marks as ASCII."""
    wide = str.maketrans({"，": ",", "．": ".", "－": "-", "／": "/", "＄": "$"})
    return "".join(
        str(unicodedata.decimal(c)) if not c.isascii() and unicodedata.decimal(c, None) is not None else c
        for c in text.translate(wide)
    )


def _joined_groups(text: str) -> str:
    """1 234 567 with any kind of narrow space or apostrophe becomes 1234567."""
    text = re.sub(rf"(?<=[0-9])[{_SPACES}](?=[0-9]{{3}}(?![0-9]))", "", text)
    return _GROUPED_SPACE.sub(lambda m: m.group(1) + m.group(2).replace(" ", ""), text)


def _plain_decimal(digits: str, language: str) -> Fraction:
    """One run of digits with dots and commas, read by its shape, then by the language's custom."""
    digits = digits.replace("٫", ".").replace("٬", "")
    marks = [c for c in digits if c in ".,"]
    if not marks:
        return Fraction(digits)
    last = marks[-1]
    tail = digits.rsplit(last, 1)[1]
    if len(set(marks)) == 2:
        decimal = last
    elif len(marks) > 1:
        decimal = ""
    else:
        grouping = "." if language in DECIMAL_COMMA else ","
        grouped = len(tail) == 3 and last == grouping and not digits.startswith(("0", ".", ","))
        decimal = "" if grouped else last
    if not decimal:
        return Fraction(re.sub("[.,]", "", digits))
    whole, part = digits.rsplit(decimal, 1)
    return Fraction((re.sub("[.,]", "", whole) or "0") + "." + (part or "0"))


def _value_of(match: re.Match[str], language: str) -> Fraction | None:
    top = match.group("top") or match.group("numerator")
    if top is not None:
        bottom = int(match.group("bottom") or match.group("denominator"))
        if bottom == 0:
            return None
        value = Fraction(int(top), bottom)
    else:
        value = _plain_decimal(match.group("digits"), language)
        for character in match.group("myriad") or "":
            value *= _MYRIADS[character]
    return -value if match.group("sign") else value


def numbers(text: str, language: str) -> list[Fraction]:
    """Every number of a text, in order."""
    values = [_value_of(match, language) for match in _NUMBER.finditer(_joined_groups(_ascii_digits(text)))]
    return [value for value in values if value is not None]


def _final_part(response: str) -> str:
    inside = boxed(response)
    if inside is not None and re.search(r"\d", inside):
        return inside
    if "####" in response:
        tail = response.rsplit("####", 1)[1].strip().splitlines()
        if tail and re.search(r"\d", tail[0]):
            return tail[0]
    return response


def _text(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    scaled = value * 10**6
    return str(float(value)) if scaled.denominator == 1 else f"{value.numerator}/{value.denominator}"


def extract(response: str, language: str) -> str:
    part = _final_part(response)
    found = numbers(part, language)
    if not found:
        return ""
    return _text(found[0] if part is not response and len(found) == 1 else found[-1])


def _number(text: str) -> Fraction | None:
    try:
        return Fraction(text.replace(",", "").strip().rstrip("%").lstrip("$"))
    except (ValueError, ZeroDivisionError):
        return None


def equal(prediction: str, gold: str) -> bool:
    a, b = _number(prediction), _number(gold)
    if a is None or b is None:
        return bool(prediction) and prediction.strip() == gold.strip()
    return abs(a - b) < Fraction(1, 1000)


def _gold(text: str) -> str:
    """Gold answers are written the English way, whatever the language of the question."""
    return extract(text, "en") or text.strip()


RULE = Rule(extract, equal, _gold)
