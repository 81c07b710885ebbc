"""Test questions that training data already holds: the same text, or nearly (MinHash of character 5-grams)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from mmscale.data.records import Record

SHINGLE = 5
PERMUTATIONS = 128


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


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def find_overlaps(
    train: Sequence[Record], test: Sequence[Record], threshold: float = 0.8
) -> tuple[list[Overlap], list[Overlap]]:
    """(exact, near) overlaps with any side of a training row, its translation included; near ones have a Jaccard similarity
    of at least `threshold`, verified on the texts."""
    from datasketch import MinHash, MinHashLSH  # imports slowly

    first: dict[str, str] = {}  # text -> origin of the first row that holds it
    for record in train:
        for side in record.sides:
            first.setdefault(normalised(side), record.origin)
    index = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)
    unique = list(first)
    for i, sketch in enumerate(
        MinHash.generator(([s.encode() for s in _shingles(t)] for t in unique), num_perm=PERMUTATIONS)
    ):
        index.insert(i, sketch)
    exact, near = [], []
    for record in test:
        question = record.text
        text = normalised(question)
        if text in first:
            exact.append(Overlap(record.origin, first[text], 1.0, question))
            continue
        shingles = _shingles(text)
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([s.encode() for s in shingles])
        similar = [(_jaccard(shingles, _shingles(unique[i])), unique[i]) for i in index.query(sketch)]
        if similar and max(similar)[0] >= threshold:
            similarity, match = max(similar)
            near.append(Overlap(record.origin, first[match], similarity, question))
    return exact, near
