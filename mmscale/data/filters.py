"""Faults of public data sets, each by name: what they look like, found in records of any source.

A filter only points; rows leave a data set when its `drop` names the filter. One that looks at each record by itself says which
kinds of record it reads, and passes over the others; what differs between kinds is asked of the record (data/records.py). A new one
is a function here and its name in mmscale/registry.py.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from mmscale import registry
from mmscale.data.records import (
    Entailment,
    MultipleChoice,
    ParallelSentence,
    Problem,
    Record,
)
from mmscale.languages import language

Filter = Callable[[Sequence[Record], str], set[int]]
"""(records, source name) -> indices of those that show the fault."""


Kind = TypeVar("Kind", bound=Record)


class Alone:
    """A filter that looks at each record by itself: a data set can be handed to it in pieces."""


class PerRecord(Alone, Generic[Kind]):
    """A filter of a fault that a record shows."""

    def __init__(self, kinds: Sequence[type[Record]], fault: Callable[[Kind], bool]) -> None:
        functools.update_wrapper(self, fault)
        self.shows = functools.singledispatch((lambda record: False) if kinds else fault)
        for kind in kinds:
            self.register(kind, fault)

    def register(self, kind: type[Record], fault: Callable[[Kind], bool]) -> None:
        """Say how records of one more kind show the fault."""
        self.shows.register(kind, fault)

    def __call__(self, records: Sequence[Record], source: str) -> set[int]:
        return {i for i, record in enumerate(records) if self.shows(record)}


def per_record(*kinds: type[Record]) -> Callable[[Callable[[Kind], bool]], PerRecord[Kind]]:
    """Make a filter of a fault that records of these kinds can show; of every kind where none is named."""
    return lambda fault: PerRecord(kinds, fault)


@per_record(ParallelSentence)
def untranslated(record: ParallelSentence) -> bool:
    """Both sides are the same text in two languages."""
    return record.source_language != record.target_language and record.source.strip() == record.target.strip()


EQUATION = re.compile(r"<<|=\s*[$€¥]?\s*\d")


@per_record(ParallelSentence)
def leaked_solution(record: ParallelSentence) -> bool:
    """The question holds an equation with its result that the English side does not."""
    return bool(EQUATION.search(record.source)) and not EQUATION.search(record.target)


leaked_solution.register(Problem, lambda record: "<<" in record.text)

_UNSPACED_LOOP = re.compile(r"(.{2,20}?)\1{7,}", re.DOTALL)


def _has_run(items: Sequence[str], period: int, times: int) -> bool:
    """Whether some stretch of `period` items comes `times` times in a row."""
    run = 0
    for before, after in zip(items, items[period:]):
        run = run + 1 if before == after else 0
        if run >= period * (times - 1):
            return True
    return False


@per_record()
def repetition_loop(record: Record) -> bool:
    """One to four words six times in a row, or a stretch of characters eight times: a translator that got stuck."""
    text = record.text
    words = text.split()
    if len(set(words)) < len(words) - 4 and any(_has_run(words, period, 6) for period in (1, 2, 3, 4)):
        return True
    pieces = len({text[i : i + 4] for i in range(len(text))})
    return pieces < 0.75 * len(text) and bool(_UNSPACED_LOOP.search(text))


@functools.cache
def script_of(character: str) -> str:
    name = unicodedata.name(character, "").split(" ")[0] if character.isalpha() else ""
    return "CJK" if name in ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else name


@per_record()
def foreign_script(record: Record) -> bool:
    """Most letters are of another script than the language's."""
    counts = Counter(map(script_of, record.text))
    del counts[""]
    own = language(record.language).script
    return own != "" and sum(counts.values()) >= 10 and counts[own] < 0.5 * sum(counts.values())


_FUNCTION_WORDS = {
    "en": ["the", "of", "and", "is", "are", "in", "to", "for", "she", "he", "they", "each", "so"],
    "es": ["la", "el", "de", "los", "las", "es", "una", "por", "sus", "en", "que", "del", "cada"],
    "fr": ["la", "le", "les", "de", "des", "est", "un", "une", "pour", "ses", "du", "dans", "elle", "il", "donc"],
    "de": ["der", "die", "das", "und", "ist", "ein", "eine", "sind", "von", "zu", "pro", "für"],
    "sw": ["ya", "wa", "na", "ni", "kwa", "za", "kila", "yake", "la", "hivyo", "katika"],
}


@per_record(Problem)
def other_language_rationale(record: Problem) -> bool:
    """The rationale reads as another Latin-script language than it should (by function words)."""
    if record.rationale_language not in _FUNCTION_WORDS:
        return False
    words = Counter(re.findall(r"[^\W\d_]+", record.rationale.lower()))
    votes = {code: sum(words[word] for word in known) for code, known in _FUNCTION_WORDS.items()}
    best = max(votes, key=lambda code: votes[code])
    return votes[best] >= 4 and votes[best] > 2 * votes[record.rationale_language]


@per_record()
def native_digits(record: Record) -> bool:
    """Decimal digits other than 0-9 (Bengali ৪২, full-width ４２)."""
    return any(not c.isascii() and c.isdecimal() for c in record.text)


@per_record()
def not_nfc(record: Record) -> bool:
    """Not in Unicode normal form C: equal-looking texts may compare unequal."""
    return not unicodedata.is_normalized("NFC", record.text)


def _digits(text: str) -> Counter[str]:
    ascii_text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    return Counter(re.findall(r"\d+", re.sub(r"(?<=\d)[.,\s\u202f\u00a0](?=\d{3}(?!\d))", "", ascii_text)))


@per_record()
def digits_differ(record: Record) -> bool:
    """The numbers written in digits are not those of the English side."""
    return record.english is not None and _digits(record.text) != _digits(record.english)


@per_record(Problem, MultipleChoice, Entailment)
def no_gold(record: Record) -> bool:
    """No answer to score against (test splits without labels, solutions without "####")."""
    return not record.gold


@per_record(Problem)
def gold_not_numeric(record: Problem) -> bool:
    """A problem whose gold answer is no plain number ("2/7", "75%")."""
    return bool(record.answer) and not re.fullmatch(r"-?\d+(\.\d+)?", record.answer)


@per_record(MultipleChoice)
def empty_option(record: MultipleChoice) -> bool:
    """One of the options has no text."""
    return any(not text for _, text in record.choices)


@per_record(MultipleChoice)
def corrupt_relation(record: MultipleChoice) -> bool:
    """XCOPA's `question` field differs from Estonian's, which was checked by reading."""
    return bool(record.reference_relation) and record.relation != record.reference_relation


MSVAMP_WRONG_GOLD = frozenset({313, 323, 918, 949, 950})
"""0-based rows whose gold is wrong in every language (checked by reading; `equation` agrees with the wrong gold)."""
MSVAMP_ILL_POSED = frozenset({299, 508, 854, 897, 919})
"""0-based rows whose text has no single answer."""


def _row_number(origin: str) -> int:
    """0-based row of an origin "file:17" or "file:row 16"."""
    place = origin.rsplit(":", 1)[-1]
    return int(place[4:]) if place.startswith("row ") else int(place) - 1 if place.isdigit() else -1


class _KnownRows(Alone):
    """A filter of rows of MSVAMP that were found by reading."""

    def __init__(self, numbers: frozenset[int], told: str) -> None:
        self.numbers, self.__doc__ = numbers, told

    def __call__(self, records: Sequence[Record], source: str) -> set[int]:
        if source != "msvamp":
            return set()
        return {i for i, record in enumerate(records) if _row_number(record.origin) in self.numbers}


@per_record(Problem, MultipleChoice)
def _answered(record: Record) -> bool:
    """The right answer is one of many, and there."""
    return bool(record.gold)


def comparison_keys(records: Sequence[Record]) -> np.ndarray:
    """What filters compare records by, int64 [n, 3]: 128 bits of language and question, and of the gold answer, 0 where it has none."""
    keys = np.zeros((len(records), 3), dtype=np.int64)
    for i, record in enumerate(records):
        asked = unicodedata.normalize("NFC", record.text + record.asked_beside)
        keys[i, :2] = _hashed(f"{record.language}\0{asked}", 2)
        if _answered.shows(record):
            keys[i, 2] = _hashed(record.gold, 1)[0] | 1
    return keys


def _hashed(text: str, words: int) -> np.ndarray:
    return np.frombuffer(hashlib.blake2b(text.encode(), digest_size=8 * words).digest(), dtype="<i8")


class Across:
    """A filter that compares the records of a data set, by `comparison_keys` alone: processes that share a set exchange these."""

    def __init__(self, among: Callable[[np.ndarray], np.ndarray]) -> None:
        """`among` says of the keys of all records, language after language, which are flagged: bool [n]."""
        functools.update_wrapper(self, among)
        self.among = among

    def __call__(self, records: Sequence[Record], source: str) -> set[int]:
        return set(np.flatnonzero(self.among(comparison_keys(records))).tolist())


def _sorted(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order that puts the same questions together, earlier ones first; which of them begin a group, bool [n])."""
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    begins = np.ones(len(keys), dtype=bool)
    begins[1:] = (keys[order[1:], :2] != keys[order[:-1], :2]).any(axis=1)
    return order, begins


@Across
def duplicate_question(keys: np.ndarray) -> np.ndarray:
    """The same question in the same language again (all but the first)."""
    order, begins = _sorted(keys)
    flagged = np.empty(len(keys), dtype=bool)
    flagged[order] = ~begins
    return flagged


@Across
def conflicting_answers(keys: np.ndarray) -> np.ndarray:
    """The same question with different gold answers: a translator gave several questions one text."""
    order, begins = _sorted(keys)
    flagged = np.zeros(len(keys), dtype=bool)
    if len(keys):
        golds, limits, starts = keys[order, 2], np.iinfo(np.int64), np.flatnonzero(begins)
        least = np.minimum.reduceat(np.where(golds == 0, limits.max, golds), starts)
        most = np.maximum.reduceat(np.where(golds == 0, limits.min, golds), starts)
        flagged[order] = (least < most)[begins.cumsum() - 1]
    return flagged


wrong_gold = _KnownRows(MSVAMP_WRONG_GOLD, "The gold answer of this row of MSVAMP is wrong.")
ill_posed = _KnownRows(MSVAMP_ILL_POSED, "This row of MSVAMP has no single answer.")


def get(name: str) -> Filter:
    """The filter of a name; UserError naming the nearest when there is none."""
    chosen: Filter = registry.get("filters", name)
    return chosen


def built_in() -> tuple[str, ...]:
    """Names of our own filters: what another package adds is run only where it is named, so that installing it changes no counts."""
    return tuple(registry.KINDS["filters"].built_in)


def flag(records: Sequence[Record], source: str, names: Sequence[str]) -> dict[str, set[int]]:
    """The findings of filters; those that find nothing are left out."""
    flagged = {name: get(name)(records, source) for name in dict.fromkeys(names)}
    return {name: indices for name, indices in flagged.items() if indices}
