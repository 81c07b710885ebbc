"""Whether a text may say a number without its digits: in a word, as a month, by another clock, in other units of thousands.

Generous on purpose: it explains why a number that was in digits on one side of a translation is not on the other.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable
from fractions import Fraction

_OWN: dict[str, dict[int, str]] = {
    "en": {
        1: "once single an a first", 2: "twice double doubled doubles doubling couple pair pairs half both second two-thirds halves "
        "each other alternate dual bi", 3: "thrice triple triples tripled third thirds trio", 4: "quadruple quarter quarters "
        "fourth quadrupled", 5: "fifth", 6: "half-dozen sixth", 7: "week weekly seventh", 10: "decade tenth", 12: "dozen year noon "
        "twelfth", 24: "day daily midnight", 20: "score", 25: "quarter quarters", 30: "month half", 50: "half percent", 60: "hour "
        "minute", 75: "quarters", 100: "century percent hundred", 1000: "thousand grand k", 0: "no none midnight",
    },
    "de": {1: "ein einmal erste", 2: "zwei zweimal doppelt beide halb hälfte paar zweite", 3: "drei dreifach dritte drittel",
           4: "vier viertel vierte", 12: "dutzend"},
    "fr": {1: "un une premier première", 2: "deux double moitié demi second", 3: "trois triple tiers", 4: "quatre quart", 12: "douzaine"},
    "es": {1: "un una primer", 2: "dos doble mitad medio segund", 3: "tres triple tercio tercer", 4: "cuatro cuarto", 12: "docena"},
    "sw": {0: "sifuri", 1: "moja mmoja kwanza", 2: "mbili wawili mawili pili viwili nusu maradufu", 3: "tatu watatu matatu vitatu theluthi",
           4: "nne wanne manne vinne robo", 5: "tano watano matano vitano", 6: "sita", 7: "saba wiki", 8: "nane wanane manane vinane",
           9: "tisa", 10: "kumi", 11: "kumi na moja", 12: "kumi na mbili dazeni mwaka", 20: "ishirini", 30: "thelathini mwezi",
           40: "arobaini", 50: "hamsini nusu", 60: "sitini", 70: "sabini", 80: "themanini", 90: "tisini", 100: "mia asilimia",
           1000: "elfu", 100000: "laki", 1000000: "milioni"},
    "hi": {0: "शून्य", 1: "एक पहल", 2: "दो दूसर दोनों दोगु दुगु आध", 3: "तीन तीसर", 4: "चार चौथ चौथाई", 5: "पांच पाँच", 6: "छह छः छठ", 7: "सात",
           8: "आठ", 9: "नौ", 10: "दस", 11: "ग्यारह", 12: "बारह", 13: "तेरह", 14: "चौदह", 15: "पंद्रह", 16: "सोलह", 20: "बीस", 30: "तीस",
           50: "पचास आध", 100: "सौ", 1000: "हज़ार हजार"},
    "ur": {1: "ایک پہل", 2: "دو دوسر دونوں دگن آدھ نصف", 3: "تین تیسر", 4: "چار چوتھ", 5: "پانچ", 6: "چھ", 7: "سات", 8: "آٹھ", 9: "نو", 10: "دس",
           11: "گیارہ", 12: "بارہ", 20: "بیس", 30: "تیس", 50: "پچاس نصف", 100: "سو", 1000: "ہزار"},
    "el": {1: "ένα μία ένας πρώτ", 2: "δύο διπλ μισ δεύτερ", 3: "τρεις τρία τρίτ τριπλ", 4: "τέσσερ τέταρτ", 5: "πέντε πέμπτ", 6: "έξι έκτ",
           7: "επτά εφτά έβδομ", 8: "οκτώ οχτώ όγδο", 9: "εννέα εννιά ένατ", 10: "δέκα δεκαετ", 11: "έντεκα", 12: "δώδεκα", 20: "είκοσι",
           30: "τριάντα", 50: "πενήντα μισ", 100: "εκατό", 1000: "χίλια χιλιάδ"},
    "bg": {1: "един една едно първ", 2: "два две двама двой втор половин", 3: "три трима трет тройн", 4: "четири четвърт", 5: "пет", 6: "шест",
           7: "седем", 8: "осем", 9: "девет", 10: "десет", 11: "единадесет", 12: "дванадесет", 20: "двадесет", 30: "тридесет", 100: "сто",
           1000: "хиляд"},
    "te": {1: "ఒక ఒక్క మొదటి", 2: "రెండు రెండ ఇద్దరు రెట్టింపు సగం", 3: "మూడు మూడ ముగ్గురు", 4: "నాలుగు నాలుగ నలుగురు", 5: "ఐదు ఐద అయిదు ఐదుగురు",
           6: "ఆరు ఆరుగురు", 7: "ఏడు ఏడుగురు", 8: "ఎనిమిది", 9: "తొమ్మిది", 10: "పది", 12: "పన్నెండు డజను", 20: "ఇరవై", 100: "వంద", 1000: "వెయ్యి వేల"},
    "bn": {1: "এক প্রথম", 2: "দুই দু দ্বিগুণ দ্বিতীয় অর্ধেক", 3: "তিন তৃতীয়", 4: "চার চতুর্থ", 5: "পাঁচ", 6: "ছয় ছয়", 12: "বারো ডজন", 20: "কুড়ি বিশ"},
    "th": {2: "สอง คู่ ครึ่ง ยี่", 4: "สี่ เศษหนึ่งส่วนสี่", 12: "สิบสอง โหล", 50: "ครึ่ง"},
    "ru": {1: "один одна одно одного одну перв", 2: "два две двое двух двойн вдвое дважды втор половин", 3: "три трое трех трёх трет тройн",
           4: "четыр четверт", 5: "пят", 6: "шест", 7: "сем", 8: "восем восьм", 9: "девят", 10: "десят", 12: "двенадцат дюжин"},
    "ja": {1: "ひとつ 一つ 一人 ひとり", 2: "ふたつ 二つ 二人 ふたり 半 倍", 3: "みっつ", 12: "ダース"},
    "zh": {2: "两 双 半 倍 翻番"},
    "ko": {1: "하나 한 첫", 2: "둘 두 절반 배", 3: "셋 세", 4: "넷 네", 5: "다섯", 6: "여섯", 7: "일곱", 8: "여덟", 9: "아홉", 10: "열"},
    "ha": {1: "ɗaya daya", 2: "biyu rabi", 3: "uku", 4: "huɗu hudu kwata", 5: "biyar", 6: "shida", 7: "bakwai", 8: "takwas", 9: "tara", 10: "goma"},
    "yo": {1: "kan ọ̀kan", 2: "méjì meji ìlọ́po ìdajì", 3: "mẹ́ta meta", 4: "mẹ́rin", 5: "márùn", 6: "mẹ́fà", 7: "méje", 8: "mẹ́jọ", 9: "mẹ́sàn",
           10: "mẹ́wà"},
}  # fmt: skip
"""Language -> number -> words for it beside the cardinal ones: in other genders, ordinal, as a part, as a unit that holds so many."""
_CODES = {"id": "id", "vi": "vi", "pt": "pt_BR"}
_UNSPACED = frozenset(["zh", "ja", "th", "ko", "lo", "km", "my"])
_NUMERAL = re.compile("[零〇一二两兩三四五六七八九十百千万萬亿億]+")


def _plain(text: str) -> str:
    """Case-folded, without the accents of Latin and Cyrillic stress."""
    return unicodedata.normalize("NFC", text).casefold()


@functools.lru_cache(maxsize=65536)
def _in_words(value: int, language: str, form: str = "cardinal") -> str:
    """A number in words, "" where no library says it."""
    from num2words import num2words  # imports slowly

    try:
        return _plain(str(num2words(value, lang=_CODES.get(language, language), to=form)))
    except (NotImplementedError, OverflowError, IndexError, KeyError, ValueError, TypeError, AttributeError):
        return ""


def knows(language: str) -> bool:
    """Whether the numbers in words of a language are known here."""
    return language in _OWN or language in ("zh", "ja") or bool(_in_words(7, language))


@functools.lru_cache(maxsize=65536)
def _forms(value: int, language: str) -> tuple[str, ...]:
    """Beginnings of words that say a number."""
    own = [_plain(form) for form in _OWN.get(language, {}).get(value, "").split()]
    said = {_in_words(value, language, form) for form in ("cardinal", "ordinal")} - {""}
    stems = (" ".join(_stem(word) for word in re.split(r"[\s-]+", one)) for one in sorted(said))
    return (*own, *(stem for stem in stems if not any(c.isdigit() for c in stem)))


def _stem(word: str) -> str:
    """A word without the end that is inflected."""
    return word if len(word) <= 4 else word[: max(4, len(word) - 2)]


class Words:
    """A text, asked which numbers it says in words."""

    def __init__(self, text: str, language: str) -> None:
        self.language = language
        self._text = _plain(text)
        self._words = re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)?", self._text)

    def say(self, value: Fraction) -> bool:
        """Whether they may say it."""
        if value.denominator != 1:
            return self._says_part(value)
        if any(self._says(form) for form in _forms(int(value), self.language)):
            return True
        return value in self._numerals() or value in self._european()

    def _says_part(self, value: Fraction) -> bool:
        """A half, 2/3, 1.5: by the words of its bottom."""
        return any(self._says(form) for form in _forms(value.denominator, self.language))

    def _says(self, form: str) -> bool:
        """Whether every part of a form stands in the text, in one that parts words by spaces at the beginning of a word."""
        parts = form.split()
        if self.language in _UNSPACED:
            return bool(parts) and all(part in self._text for part in parts)
        return bool(parts) and all(self._begins(part) for part in parts)

    def _begins(self, part: str) -> bool:
        if len(part) <= (2 if self.language in ("ar", "ur", "fa") else 3):
            return part in self._words or (not part.isascii() and any(word.startswith(part) for word in self._words))
        return any(part in word for word in self._words)

    def _numerals(self) -> frozenset[Fraction]:
        if self.language not in ("zh", "ja"):
            return frozenset()
        return frozenset(value for run in _NUMERAL.findall(self._text) for value in _han(run))

    def _european(self) -> frozenset[Fraction]:
        return _european(self._text, self.language)


@functools.lru_cache(maxsize=64)
def _european(text: str, language: str) -> frozenset[Fraction]:
    """The numbers that text2num reads."""
    from mmscale.evaluation.answers.number_words import LANGUAGES
    from mmscale.evaluation.answers.written_numbers import normalised, numbers

    if language not in LANGUAGES:
        return frozenset()
    from text_to_num import alpha2digit

    digits = alpha2digit(re.sub(r"\d+", "#", text).replace("-", " "), language, threshold=0)
    return frozenset(value for one in numbers(normalised(digits), language) for value in one.readings)


@functools.lru_cache(maxsize=4096)
def _han(run: str) -> tuple[Fraction, ...]:
    """The readings of a run of Chinese numerals: as one number, and as its single ones."""
    import cn2an

    plain = run.translate(str.maketrans("萬億兩〇", "万亿两零"))
    values: list[Fraction] = []
    for piece in dict.fromkeys([plain, "一" + plain, *plain]):
        try:
            values.append(Fraction(str(cn2an.cn2an(piece, "smart"))))
        except (ValueError, KeyError):  # cn2an's own of numerals such as 一万零十
            continue
    return tuple(values)


def names_of_months(words: str, languages: Iterable[str]) -> frozenset[int]:
    """The numbers of the months that a text names (Unicode CLDR)."""
    plain = _plain(words)
    return frozenset(
        number
        for language in languages
        for name, number in _months(language)
        if re.search(rf"(?<![^\W\d_]){re.escape(name)}" + ("" if len(name) > 4 else r"(?![^\W\d_])"), plain)
    )


@functools.lru_cache(maxsize=64)
def _months(language: str) -> tuple[tuple[str, int], ...]:
    from babel import Locale, UnknownLocaleError  # imports slowly

    try:
        months = Locale.parse(language.replace("-", "_")).months
    except (UnknownLocaleError, ValueError):
        return ()
    named = [
        (_plain(name).rstrip("."), number)
        for use in months.values()
        for width in ("wide", "abbreviated")
        for number, name in use[width].items()
    ]
    return tuple({(name, number) for name, number in named if len(name) > 2 and not name[0].isdigit()})
