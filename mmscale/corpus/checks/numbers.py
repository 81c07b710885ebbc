"""The numbers of question and rationale, which a translation keeps: as a multiset, read by each language's customs.

A number that stands in digits on one side only is a fault unless the other side may say it otherwise (spelled.py, customs.py).
Where it cannot be known whether it does, in a language whose number words nobody knows here, a small number that is missing is
none.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mmscale.corpus.checks.base import RowScore, by_row, sides, worst
from mmscale.corpus.checks.customs import Said, in_another_form, plain, without_pairs
from mmscale.corpus.checks.spelled import Words, knows, names_of_months
from mmscale.corpus.rows import CorpusRow
from mmscale.evaluation.answers.written_numbers import normalised, numbers

_SMALL = 20
"""Numbers up to it are often written in words."""
_SHOWN = 5


def said_numbers(text: str, language: str, beside: str) -> list[Said]:
    """The numbers in digits of a text; hours and minutes each. `beside` is its other side."""
    read = plain(normalised(text), beside)
    return [Said(one.readings, read[one.end : one.end + 2].strip()[:1].isalpha()) for one in numbers(read, language)]


def unmatched(left: Sequence[Said], right: Sequence[Said]) -> tuple[list[Said], list[Said]]:
    """What is left of two multisets of numbers when each has given up its equals."""
    rest, alone = list(right), []
    for one in left:
        same = next((other for other in rest if not set(one.readings).isdisjoint(other.readings)), None)
        if same is None:
            alone.append(one)
        else:
            rest.remove(same)
    return alone, rest


def differences(text: str, language: str, original: str, original_language: str) -> tuple[list[Said], list[Said]]:
    """(numbers that are missing, numbers that are new) in a translation; those that are said otherwise are neither."""
    missing, new = unmatched(said_numbers(original, original_language, text), said_numbers(text, language, original))
    if missing and new:
        missing, new = without_pairs(missing, new, (text, original))
    if not missing and not new:
        return [], []
    here, there = Words(text, language), Words(original, original_language)
    months = names_of_months(f"{text} {original}", (language, original_language))
    missing = [one for one in missing if not _is_said(one, here, text) and months.isdisjoint(one.readings)]
    new = [one for one in new if not _is_said(one, there, original) and months.isdisjoint(one.readings)]
    if not knows(language) and not new:
        missing = [one for one in missing if one.readings[0] > _SMALL]
    return missing, new


def _is_said(one: Said, words: Words, text: str) -> bool:
    decade = [value % 100 for value in one.readings if 1000 < value < 2100 and value % 10 == 0]
    return in_another_form(one, text) or any(words.say(abs(value)) for value in (*one.readings, *decade))


def _score_of(name: str, text: str, original: str, row: CorpusRow) -> RowScore:
    missing, new = differences(text, row.language, original, row.source_language or "en")
    told = [f"{what} {_listed(some)}" for what, some in (("without", missing), ("with", new)) if some]
    return RowScore(max(len(missing), len(new)), f"{name} {' and '.join(told)}" if told else "")


def _listed(some: Sequence[Said]) -> str:
    more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
    return ", ".join(_plain(one.readings[0]) for one in some[:_SHOWN]) + more


def _plain(value: Fraction) -> str:
    return str(value) if value.denominator == 1 else f"{float(value):g}"


def score(row: CorpusRow) -> RowScore | None:
    """How many numbers are missing or new, whichever is more, in the worse of question and rationale."""
    return worst([_score_of(name, text, original, row) for name, text, original in sides(row)])


CHECK = by_row(score, threshold=0)
"""Numbers in digits of the original that are missing in the translation, or new in it."""
