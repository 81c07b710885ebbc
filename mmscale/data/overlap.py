"""Test questions that training data already holds: the same text, or nearly (MinHash of character 5-grams)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mmscale.data.records import Record
from mmscale.errors import UserError

SHINGLE = 5
PERMUTATIONS = 128
LEAST = 0.1
"""Lowest threshold: below it every two texts of a language are near."""
_FOUND = 0.99
"""Least chance of finding two texts that are exactly as near as the threshold asks."""


@dataclass(frozen=True)
class Overlap:
    """One test row and the training row most like it."""

    test: str
    train: str
    """Origins."""
    similarity: float
    """Jaccard similarity of the sets of character 5-grams; 1 for the same normalised text."""
    question: str


def normalised(text: str) -> str:
    """NFKC, case-folded, letters and digits of any script only, one space between words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.findall(r"[^\W_]+", folded))


def shingles(text: str) -> set[str]:
    """The character 5-grams of a text."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def bands(threshold: float) -> tuple[int, int]:
    """(bands b, rows of a band r) of the index: the longest bands, which let fewest others in, that find _FOUND of the pairs of
    similarity t = `threshold`; a pair is found with probability 1 - (1 - t^r)^b (Leskovec et al., Mining of Massive Datasets,
    section 3.4.2)."""
    cuts = ((PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS // 2, 0, -1))
    return next((b, r) for b, r in cuts if 1 - (1 - threshold**r) ** b >= _FOUND)


class TextIndex:
    """Texts with their origins, asked for the one most like another."""

    def __init__(self, texts: Iterable[tuple[str, str]], threshold: float) -> None:
        """(text, origin) pairs, of equal texts the first; `threshold` is the least similarity that is looked for."""
        if not LEAST <= threshold <= 1:
            raise UserError(f"the threshold of similarity is a number from {LEAST} to 1, not {threshold}")
        from datasketch import MinHash, MinHashLSH  # imports slowly

        self._threshold = threshold
        self._first: dict[str, str] = {}
        for text, origin in texts:
            self._first.setdefault(normalised(text), origin)
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
        self._unique = list(self._first)
        pieces = ([one.encode() for one in shingles(text)] for text in self._unique)
        for i, sketch in enumerate(MinHash.generator(pieces, num_perm=PERMUTATIONS)):
            self._index.insert(i, sketch)

    def nearest(self, text: str) -> tuple[float, str] | None:
        """(similarity, origin) of the text most like it, 1 for the same; None below the threshold."""
        from datasketch import MinHash

        plain = normalised(text)
        if plain in self._first:
            return 1.0, self._first[plain]
        own = shingles(plain)
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([one.encode() for one in own])
        similar = [(_jaccard(own, shingles(self._unique[i])), self._unique[i]) for i in self._index.query(sketch)]
        similarity, match = max(similar, default=(0.0, ""))
        return (similarity, self._first[match]) if similar and similarity >= self._threshold else None


class _Questions:
    """Test questions, to be met by training texts one after another."""

    def __init__(self, test: Sequence[Record], threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH  # imports slowly

        self.threshold, self._sketch_of = threshold, MinHash
        self.shingles = {text: shingles(text) for text in (normalised(record.text) for record in test)}
        self._all = set[str]().union(*self.shingles.values())
        self._index = MinHashLSH(num_perm=PERMUTATIONS, params=bands(threshold))
        for text, pieces in self.shingles.items():
            self._index.insert(text, self._sketch(pieces))
        self.same: dict[str, str] = {}
        """Text of a question -> origin of the first training row that holds it."""
        self.most_like: dict[str, tuple[float, str, str]] = {}
        """Text of a question -> (similarity, text, origin) of the nearest training text."""

    def _sketch(self, pieces: set[str]) -> Any:
        sketch = self._sketch_of(num_perm=PERMUTATIONS)
        sketch.update_batch([one.encode() for one in pieces])
        return sketch

    def meet(self, text: str, origin: str) -> None:
        """Hold a training text against all of them.

        Of a text with a Jaccard similarity t to a question at least the share t is in that question: most texts have less in
        all of them together, and no sketch is made of them.
        """
        if text in self.shingles:
            self.same.setdefault(text, origin)
        pieces = shingles(text)
        if len(pieces & self._all) / len(pieces) < self.threshold:
            return
        for question in self._index.query(self._sketch(pieces)):
            similarity = _jaccard(self.shingles[question], pieces)
            if similarity >= self.threshold and (similarity, text) > self.most_like.get(question, _LEAST_LIKE)[:2]:
                self.most_like[question] = (similarity, text, origin)


_LEAST_LIKE = (-1.0, "", "")


def find_overlaps(
    train: Iterable[Record], test: Sequence[Record], threshold: float = 0.8
) -> tuple[list[Overlap], list[Overlap]]:
    """(exact, near) overlaps with any side of a training row, its translation included; near ones have a Jaccard similarity
    of at least `threshold`, verified on the texts. Training rows are looked at one after another, and none is kept."""
    if not LEAST <= threshold <= 1:
        raise UserError(f"the threshold of similarity is a number from {LEAST} to 1, not {threshold}")
    questions = _Questions(test, threshold)
    for record in train:
        for side in record.sides:
            questions.meet(normalised(side), record.origin)
    exact, near = [], []
    for record in test:
        text = normalised(record.text)
        if text in questions.same:
            exact.append(Overlap(record.origin, questions.same[text], 1.0, record.text))
        elif text in questions.most_like:
            similarity, _, origin = questions.most_like[text]
            near.append(Overlap(record.origin, origin, similarity, record.text))
    return exact, near
