"""What was seen of all rows of a corpus: how long translations are for their originals, and which rows say what others said.

Each shard is looked at by itself (`notes_of`), the notes of all shards are then brought together (`together`) bucket by bucket:
no more than a bucket of rows is in memory, whatever the number of rows, and the outcome does not depend on who looked at what.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmscale.corpus.rows import CorpusRow
from mmscale.data.overlap import PERMUTATIONS, bands, normalised, shingles

Counts = dict[str, dict[int, int]]
"""Pair of languages and part -> bin of a logarithm of a ratio -> texts."""
BINS_PER_UNIT = 50
"""Per unit of the natural logarithm of characters of a translation per character of its original."""
NEAR = 0.9
"""Least similarity of near duplicates."""
_BUCKET = 1 << 20
"""Rows of which all is compared at once."""
_KINDS = ("duplicate", "merged_questions")


def key(row_id: str) -> int:
    """The number that stands for a row."""
    return _hash(row_id)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def ratios(row: CorpusRow) -> Iterator[tuple[str, float]]:
    """(languages and part, logarithm of characters per character of the original) of question and rationale."""
    for part, text, original in (
        ("question", row.question, row.source_question),
        ("rationale", row.rationale, row.source_rationale),
    ):
        if original:
            yield f"{row.source_language}-{row.language}-{part}", math.log(max(1, len(text)) / len(original))


def _said(row: CorpusRow) -> str:
    return f"{row.language} {normalised(row.question)} | {normalised(row.rationale)} {row.answer or ''}"


def _digits(text: str) -> str:
    """The numbers in digits of a text in order, native ones too: problems with other numbers are other problems."""
    ascii_text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else " " for c in text)
    return " ".join(ascii_text.split())


@dataclass
class ShardNotes:
    """What was seen of one shard."""

    counts: Counts = field(default_factory=lambda: defaultdict(lambda: defaultdict(int)))
    keys: list[int] = field(default_factory=list)
    duplicate: list[int] = field(default_factory=list)
    """Hash of all that a row says."""
    merged_questions: list[int] = field(default_factory=list)
    """Hash of a translated question."""
    originals: list[int] = field(default_factory=list)
    """Hash of its original; 0 of a row that is no translation."""
    sketches: list[np.ndarray] = field(default_factory=list)
    """MinHash of question and rationale, uint32."""
    numbers: list[int] = field(default_factory=list)
    """Hash of language and digits."""

    def save(self, path: Path) -> None:
        """As plain arrays."""
        arrays: dict[str, Any] = {name: np.array(getattr(self, name), dtype=np.int64) for name in _COLUMNS}
        arrays["sketches"] = np.array(self.sketches, dtype=np.uint32).reshape(len(self.keys), PERMUTATIONS)
        with open(path, "wb") as file:
            np.savez(file, **arrays)


_COLUMNS = ("keys", "duplicate", "merged_questions", "originals", "numbers")


def notes_of(rows: Iterable[CorpusRow], near: bool) -> ShardNotes:
    """Look at the rows of a shard; `near`: for near duplicates too, which costs most."""
    notes = ShardNotes()
    for row in rows:
        for name, ratio in ratios(row):
            notes.counts[name][round(ratio * BINS_PER_UNIT)] += 1
        said = _said(row)
        notes.keys.append(key(row.id))
        notes.duplicate.append(_hash(said))
        notes.merged_questions.append(_hash(f"{row.language} {normalised(row.question)}"))
        notes.originals.append(_hash(normalised(row.source_question)) if row.source_question else 0)
        notes.numbers.append(_hash(f"{row.language} {_digits(row.question + ' ' + row.rationale)}"))
        notes.sketches.append(_sketch(said) if near else np.zeros(PERMUTATIONS, dtype=np.uint32))
    return notes


def _sketch(text: str) -> np.ndarray:
    from datasketch import MinHash  # imports slowly

    sketch = MinHash(num_perm=PERMUTATIONS)
    sketch.update_batch([one.encode() for one in shingles(text)])
    return np.asarray(sketch.hashvalues, dtype=np.uint32)


@dataclass(frozen=True)
class Repeats:
    """Rows that say what an earlier row said."""

    keys: np.ndarray
    """int64, in order."""
    earlier: np.ndarray
    """Number of the earlier row, counted over all shards."""

    def of(self, row_id: str) -> int | None:
        """The number of the row that this one repeats; None where it repeats none."""
        place = int(np.searchsorted(self.keys, key(row_id)))
        same = place < len(self.keys) and self.keys[place] == key(row_id)
        return int(self.earlier[place]) if same else None


@dataclass(frozen=True)
class Seen:
    """What was seen of all rows."""

    centres: dict[str, tuple[int, float, float]]
    """Languages and part -> (texts, median, median absolute deviation) of logarithms of ratios."""
    repeats: dict[str, Repeats]
    """Check name -> rows that repeat another."""
    shards: list[tuple[str, int]]
    """(shard, number of its first row) in order."""

    def place(self, number: int) -> str:
        """The shard and line of a row by its number."""
        shard, first = next(one for one in reversed(self.shards) if one[1] <= number)
        return f"{shard}:{number - first + 1}"


def centre(counts: dict[int, int]) -> tuple[int, float, float]:
    """(texts, median, median absolute deviation) of a histogram."""
    total, middle = sum(counts.values()), _median(counts)
    away: dict[int, int] = defaultdict(int)
    for place, number in counts.items():
        away[abs(place - middle)] += number
    return total, middle / BINS_PER_UNIT, _median(away) / BINS_PER_UNIT


def _median(counts: dict[int, int]) -> int:
    left = sum(counts.values()) / 2
    for place in sorted(counts):
        left -= counts[place]
        if left <= 0:
            return place
    return 0


Arrays = dict[str, np.ndarray]


def together(
    shards: Sequence[tuple[str, int]], notes: Callable[[str], Arrays], counts: Iterable[Counts], near: bool
) -> Seen:
    """Bring the notes of shards, (name, rows) in order, together."""
    firsts, number = [], 0
    for name, rows in shards:
        firsts.append((name, number))
        number += rows
    total: Counts = defaultdict(lambda: defaultdict(int))
    for of_shard in counts:
        for name, histogram in of_shard.items():
            for place, texts in histogram.items():
                total[name][int(place)] += texts
    repeats = {kind: _sorted(_repeats(firsts, notes, kind, number)) for kind in _KINDS}
    repeats["near_duplicate"] = _sorted(_near(firsts, notes, number) if near else [])
    return Seen({name: centre(dict(histogram)) for name, histogram in total.items()}, repeats, firsts)


def _sorted(pairs: list[tuple[int, int]]) -> Repeats:
    keys = np.array([one for one, _ in pairs], dtype=np.int64)
    order = np.argsort(keys, kind="stable")
    return Repeats(keys[order], np.array([other for _, other in pairs], dtype=np.int64)[order])


def _buckets(
    firsts: Sequence[tuple[str, int]], notes: Callable[[str], Arrays], column: str, rows: int, wanted: Sequence[str]
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """(numbers of rows, their columns) of all rows whose hash falls into the same bucket, in order, bucket by bucket."""
    count = rows // _BUCKET + 1
    for bucket in range(count):
        numbers, parts = [], defaultdict(list)
        for name, first in firsts:
            arrays = notes(name)
            chosen = np.flatnonzero(arrays[column] % count == bucket)
            numbers.append(chosen + first)
            for one in wanted:
                parts[one].append(arrays[one][chosen])
        yield np.concatenate(numbers), {one: np.concatenate(columns) for one, columns in parts.items()}


def _groups(hashes: np.ndarray) -> Iterator[np.ndarray]:
    """Places of equal hashes, in order, where there are several."""
    order = np.argsort(hashes, kind="stable")
    edges = np.flatnonzero(np.diff(hashes[order])) + 1
    for group in np.split(order, edges):
        if len(group) > 1:
            yield group


def _repeats(firsts: Any, notes: Callable[[str], Arrays], kind: str, rows: int) -> list[tuple[int, int]]:
    """(key of a row, number of the first that says the same) of all but the first.

    Of merged questions those alone whose originals differ, all of them: which of them the translation is of is not known.
    """
    pairs: list[tuple[int, int]] = []
    if not firsts:
        return pairs
    for numbers, columns in _buckets(firsts, notes, kind, rows, ("keys", kind, "originals")):
        for group in _groups(columns[kind]):
            first = int(numbers[group[0]])
            if kind == "duplicate":
                pairs += [(int(columns["keys"][one]), first) for one in group[1:]]
            elif len(set(columns["originals"][group].tolist()) - {0}) > 1:
                other = int(numbers[group[1]])
                pairs += [(int(columns["keys"][one]), other if one == group[0] else first) for one in group]
    return pairs


def _near(firsts: Any, notes: Callable[[str], Arrays], rows: int) -> list[tuple[int, int]]:
    """(key of a row, number of the first that says nearly the same), rows with the same digits alone."""
    pairs: list[tuple[int, int]] = []
    if not firsts:
        return pairs
    for numbers, columns in _buckets(firsts, notes, "numbers", rows, ("keys", "numbers", "sketches", "duplicate")):
        for group in _groups(columns["numbers"]):
            sketches, exact = columns["sketches"][group], columns["duplicate"][group]
            for place, earlier in _similar(sketches, exact):
                pairs.append((int(columns["keys"][group[place]]), int(numbers[group[earlier]])))
    return pairs


def _similar(sketches: np.ndarray, exact: np.ndarray) -> Iterator[tuple[int, int]]:
    """(place, first similar place) of rows that are nearly but not quite the same, found by bands of their sketches."""
    count, length = bands(NEAR)
    first_of: dict[tuple[int, bytes], int] = {}
    for place in range(len(sketches)):
        candidates = []
        for band in range(count):
            part = (band, sketches[place, band * length : (band + 1) * length].tobytes())
            candidates.append(first_of.setdefault(part, place))
        for earlier in sorted(set(candidates) - {place}):
            if exact[earlier] != exact[place] and np.mean(sketches[earlier] == sketches[place]) >= NEAR:
                yield place, earlier
                break
