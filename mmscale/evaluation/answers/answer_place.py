r"""Where in a response its answer stands.

New questions are cut off first. Then, the first that is there: the last \boxed, the last "####", the last statement ("the
answer is"), the last label ("Answer:") with a number right behind it, the conclusion of the last sentence with a number.
"""

from __future__ import annotations

import functools
import re
from fractions import Fraction
from itertools import pairwise

from mmscale.evaluation.answers.mcot import boxed
from mmscale.evaluation.answers.number_words import in_words
from mmscale.evaluation.answers.words import (
    ABBREVIATIONS,
    IS,
    LABELS,
    LABELS_BARE,
    OF_A_WHOLE,
    QUESTIONS,
    REASON_OR_COMPARISON,
    SO,
)
from mmscale.evaluation.answers.written_numbers import Number, normalised, numbers

_CLAUSE = 1000
"""Characters in which a statement has to come to its number."""
_TRIES = 50
"""Statements and labels that are looked at, from the last."""

Readings = tuple[Fraction, ...]
"""What the answer may mean, the likeliest first; empty for an answer that is no single number."""

_NEW_QUESTION = re.compile(
    rf"(?:^|\n)[\s#*>]*(?:{QUESTIONS})\s*\d*\s*(?:[:：]|\n)|Answer the following question|Below is an instruction"
    r"|</s>|<\|(?:im_end|im_start|endoftext|end_of_text|eot_id|end|eos)\|>|<end_of_turn>|<eos>|\[/?INST\]",
    re.IGNORECASE,
)
_STATED = re.compile("|".join(f"(?:{phrase})" for phrase in IS.values()), re.IGNORECASE)
_LABELLED = re.compile(
    rf"(?<!\w)(?:(?!a\s*=)(?:{LABELS})[\s*]*(?:[:：=]|[–—-]\s)|(?:{LABELS_BARE})[\s*]*(?:[:：=]|[–—-]\s)?)",
    re.IGNORECASE,
)
_END = re.compile(r"[.!?](?=\s|$|[\"')*\]])|[。！？।॥؟]|\n")
_ABBREVIATED = re.compile(rf"(?<![^\W\d_])(?:{'|'.join(map(re.escape, ABBREVIATIONS))})\.$", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_QUESTION_MARKS = "?？؟"
_QUESTION_MARK = re.compile(f"[{_QUESTION_MARKS}]")
_ALONE = re.compile(r"^(\W{0,4}[^\w\n]?\d[\d.,/]*\W{0,4})(?:\n\s*\n|\Z)", re.MULTILINE)
_ASKED = re.compile(rf"\n\s*\n[^\n]*[{_QUESTION_MARKS}][\s*\"'»”]*\Z")
"""A last paragraph that ends in a question."""
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_ASIDE = re.compile(r"\([^()]*\)")
_OPERATOR = re.compile(r"\W*(?:[-+×x*÷/\u2212–]|plus|minus|times|divided by|multiplied by)\s*[$€£]?\s*", re.IGNORECASE)
_EQUALS = re.compile(r"[=≈⇒→]|\bround(?:s|ed) (?:(?:up|down) )?to (?=[$€£]?\d)(?!\d+ (?:decimal|significant))")
_SO = re.compile(rf"(?<!\w)(?:{SO})(?!\w)", re.IGNORECASE)
_LETTER = r"[^\W\d_\u0e00-\u9fff]"
"""One letter of a script that parts words by spaces."""
_OF_A_WHOLE = re.compile(rf"(?:\s+[^\W\d_]+|\s?[$€£¥₹])?\s+(?:{OF_A_WHOLE})\s+[$€£¥₹]?\s?", re.IGNORECASE)
"""Between a part and what it is a part of: "18 apples out of 30"."""
_CHATTER = re.compile(
    r"\s*(?:I hope|Hope|Let me know|Feel free|Please|Note|If you\b[^\n]*\b(?:questions?|help|let me know|feel free))\b[^=]*\Z",
    re.IGNORECASE,
)
_IS_THE_ANSWER = re.compile(r"[^\d.!?]{0,20}\bis\s+(?:the|our|your)\s+(?:final\s+|correct\s+)?answer\b", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"\s*\d{1,2}[.)]\s+(?=\D*\d)")
_CLOCK = re.compile(
    r"(?<![\d:])(?!(?:(?<==)|(?<== ))\d{1,2}:00)\d{1,2}:\d{2}(?::\d{2})?(?:\s?[ap]\.?m\b\.?)?(?![\d:])", re.IGNORECASE
)
_IN_A_YEAR = (
    r"(?<!\w)(?:in|by|since|until|im(?: Jahr)?|seit|en|depuis|em|desde|nel|dal|sinds|w|в|с|tahun|năm|mwaka(?: wa)?)\s+"
    r"(?:19|20)\d{2}(?:\s+(?:году|года|г\.))?(?=\s*[.!]?\s*(?:\n|$))"
)
"""At the end of a line, with a year in it: "30 in 2024"."""
_DATE = (
    r"(?<![\d/.-])(?:\d{1,4}([/.-])\d{1,2}\1\d{2,4})(?![\d/-])|\d{4}年(?:\d{1,2}月)?(?:\d{1,2}日)?|\d{1,2}月\d{1,2}日"
)


def answer(response: str, language: str) -> Readings:
    """The readings of a response's answer."""
    text = _without_new_questions(response)
    inside = boxed(text)
    if inside is not None and (stated := _stated_number(inside, language)) is not None:
        return stated
    if "####" in text and (stated := _behind_marks(text, language)) is not None:
        return stated
    plain = normalised(text)
    for look in (_statement, _label, _alone, _conclusion):
        stated = look(plain, language)
        if stated is not None:
            return stated
    words = in_words(plain, language)
    return (words[-1],) if words else ()


def _without_new_questions(text: str) -> str:
    """A response up to where it goes on with a question of its own."""
    first = _DIGIT.search(text)
    if first is None:
        return text
    marked = _NEW_QUESTION.search(text, first.end())
    if marked:
        text = text[: marked.start()]
    asked = _ASKED.search(text, first.end())
    if asked and _DIGIT.search(text, asked.start()):
        text = text[: asked.start()]
    answers = sorted([*_STATED.finditer(text), *re.finditer("####", text)], key=lambda match: match.start())
    for match in answers[:_TRIES]:
        end = _sentence_end(text, match.end())
        mark = _QUESTION_MARK.search(text, end)
        if mark is None:
            break
        if _DIGIT.search(text, match.end(), end) and _DIGIT.search(text, end, mark.start()):
            return text[:end]  # a problem has numbers; "is that right?" has none
    return text


def _sentence_end(text: str, start: int) -> int:
    """Where the sentence that goes on at `start` ends; one that has said nothing yet goes on behind a line break."""
    limit = start + _CLAUSE
    for match in _END.finditer(text, start, limit):
        said = text[start : match.end()]
        if match[0] == "." and _ABBREVIATED.search(said):
            continue
        if any(c.isalnum() for c in said):
            return match.end()
    return min(limit, len(text))


def _sentences(text: str) -> list[str]:
    sentences, start = [], 0
    for match in _END.finditer(text):
        if match[0] != "." or not _ABBREVIATED.search(text, max(start, match.end() - 12), match.end()):
            sentences.append(text[start : match.end()])
            start = match.end()
    return [*sentences, text[start:]]


@functools.lru_cache(maxsize=256)
def _dates(language: str) -> re.Pattern[str]:
    """Dates in figures, and with the names of months (Unicode CLDR) of a language and of English."""
    from babel import Locale, UnknownLocaleError  # imports slowly

    names: set[str] = set()
    for code in {language.replace("-", "_"), "en"}:
        try:
            months = Locale.parse(code).months
        except (UnknownLocaleError, ValueError):
            continue
        for width in ("format", "stand-alone"):
            names |= {name for name in months[width]["wide"].values() if not any(c.isdigit() for c in name)}
    month = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    day = r"\d{1,2}(?:st|nd|rd|th|er|\.|º)?"
    named = rf"(?<!\w)(?:{month})(?!\w)\s+{day}(?!\d)(?:,?\s+\d{{4}})?|(?<!\d){day}\s+(?:de\s+|of\s+)?(?:{month})(?!\w)(?:,?\s+(?:de\s+)?\d{{4}})?"
    year = rf"(?<!\w)(?:{month})(?!\w)\s+(?:de\s+|of\s+)?(?:19|20)\d{{2}}(?!\d)"
    return re.compile(f"{_DATE}|{named}|{year}|{_IN_A_YEAR}")


def _bare(text: str, language: str) -> str:
    """A text without asides, dates and times of day, where a number is left; its characters keep their places."""
    for pattern in (_dates(language), _CLOCK, _ASIDE):
        without = pattern.sub(lambda m: " " * len(m[0]), text)
        if numbers(without, language):
            text = without
    return text


def _stated_number(clause: str, language: str) -> Readings | None:
    """The number that a clause states: the one behind its last equals sign, else its first. None where it states none.

    Empty for a sum that is not worked out, such as 10 - 3.
    """
    plain = normalised(clause)
    candidates = _worked_out(_bare(plain, language), language)
    if candidates:
        text = _bare(plain, language)
        if len(candidates) > 1 and _is_sum(text, candidates[:2]):
            return candidates[-1].readings if _SO.search(text, candidates[1].end) or len(candidates) > 2 else ()
        return candidates[0].readings
    words = in_words(plain, language)
    return (words[0],) if words else None


def _worked_out(text: str, language: str) -> list[Number]:
    """The numbers behind the last equals sign that has one behind it; all numbers where there is none.

    Where a sum stands behind the sign and one number before it, as in 18 = 9 * 2, that number.
    """
    all_numbers = numbers(text, language)
    signs = [match.start() for match in _EQUALS.finditer(text)]
    for place in reversed(range(len(signs))):
        behind = [one for one in all_numbers if one.begin >= signs[place]]
        if behind:
            start = signs[place - 1] if place else 0
            before = [one for one in all_numbers if start <= one.begin < signs[place]]
            return before if len(before) == 1 and _is_sum(text, behind) else behind
    return all_numbers


def _is_sum(text: str, terms: list[Number]) -> bool:
    """Whether numbers are joined by operators only."""
    gaps = [text[a.end : b.begin] for a, b in pairwise(terms)]
    return bool(gaps) and all(_OPERATOR.fullmatch(gap) for gap in gaps)


def _behind_marks(text: str, language: str) -> Readings | None:
    """The number behind the last "####"; of a numbered heading, as in "#### 3. 5 + 7 = 12", not its own number."""
    lines = text.rsplit("####", 1)[1].strip().splitlines()
    return _stated_number(_LIST_NUMBER.sub("", lines[0], count=1), language) if lines else None


def _statement(text: str, language: str) -> Readings | None:
    """The number of the last statement of an answer."""
    for one in reversed(numbers(text, language)):
        if _IS_THE_ANSWER.match(text, one.end):
            return one.readings
    for match in list(_STATED.finditer(text))[: -_TRIES - 1 : -1]:
        stated = _stated_number(text[match.end() : _sentence_end(text, match.end())], language)
        if stated is not None:
            return stated
    return None


def _label(text: str, language: str) -> Readings | None:
    """The number right behind the last label, where it is not the beginning of a whole solution."""
    for match in list(_LABELLED.finditer(text))[: -_TRIES - 1 : -1]:
        end = _sentence_end(text, match.end())
        clause = text[match.end() : end]
        candidates = numbers(clause, language)
        if not candidates:
            words = in_words(clause, language) if len(clause.split()) <= 4 else []
            if words:
                return (words[0],)
            continue
        direct = not any(c.isalnum() for c in clause[: candidates[0].begin])
        behind = clause[candidates[0].end :]
        short = len(behind.split()) <= 4 and not _EQUALS.search(behind)
        if len(candidates) > 1 and _is_sum(clause, candidates[:2]):
            continue
        if direct and (short or not numbers(text[end:], language)):
            return candidates[0].readings
    return None


def _alone(text: str, language: str) -> Readings | None:
    """The number that stands alone on the first line, before an explanation, or in bold on any."""
    lines = [match[1] for match in _ALONE.finditer(text) if match.start() == 0 or match[1].startswith("**")]
    candidates = numbers(lines[-1], language) if lines else []
    return candidates[0].readings if len(candidates) == 1 else None


def _without_reason_or_comparison(sentence: str, language: str) -> str:
    """A sentence up to the reason ("… because 9 > 7") or comparison ("… more than the 9 there") that it ends in, where a number
    stands before and no equation behind."""
    words = "|".join(
        dict.fromkeys([REASON_OR_COMPARISON["en"], REASON_OR_COMPARISON.get(language, REASON_OR_COMPARISON["en"])])
    )
    for reason in re.finditer(rf"(?<!{_LETTER})(?:{words})(?!{_LETTER})[^=]*\Z", sentence, re.IGNORECASE):
        if numbers(sentence[: reason.start()], language):
            return sentence[: reason.start()]
    return sentence


def _conclusion(text: str, language: str) -> Readings | None:
    """The number that the last sentence with a number ends in."""
    told = _bare(text, language)
    spoken = [sentence for sentence in _sentences(told) if not _CHATTER.match(sentence)]
    said = [sentence for sentence in spoken if sentence[-1:] not in _QUESTION_MARKS or not sentence]
    for sentence in reversed(said if any(numbers(sentence, language) for sentence in said) else spoken or [told]):
        if not numbers(sentence, language):
            continue
        bare = _without_reason_or_comparison(sentence, language)
        bold = [one for match in _BOLD.finditer(bare) for one in numbers(match[1], language)]
        if bold:
            return bold[-1].readings
        candidates = _worked_out(bare, language)
        if len(candidates) > 1 and candidates != numbers(bare, language):
            concluded = _SO.search(bare, candidates[0].end)
            expression = _is_sum(bare, candidates[:2])
            return candidates[-1 if concluded or expression else 0].readings
        if len(candidates) > 1 and _OF_A_WHOLE.fullmatch(bare, candidates[-2].end, candidates[-1].begin):
            return candidates[-2].readings
        return candidates[-1].readings
    return None
