"""Test questions that training data already holds: the same text, or nearly (MinHash of character 5-grams)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

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


def _shingles(text: str) -> set[str]:
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


def _bands(threshold: float) -> tuple[int, int]:
    """(bands b, rows of a band r) of the index: the longest bands, which let fewest others in, that find _FOUND of the pairs of
    similarity t = `threshold`; a pair is found with probability 1 - (1 - t^r)^b (Leskovec et al., Mining of Massive Datasets,
    section 3.4.2)."""
    cuts = ((PERMUTATIONS // rows, rows) for rows in range(PERMUTATIONS // 2, 0, -1))
    return next((b, r) for b, r in cuts if 1 - (1 - threshold**r) ** b >= _FOUND)


def find_overlaps(
    train: Sequence[Record], test: Sequence[Record], threshold: float = 0.8
) -> tuple[list[Overlap], list[Overlap]]:
    """(exact, near) overlaps with any side of a training row, its translation included; near ones have a Jaccard similarity
    of at least `threshold`, verified on the texts."""
    if not LEAST <= threshold <= 1:
        raise UserError(f"the threshold of similarity is a number from {LEAST} to 1, not {threshold}")
    from datasketch import MinHash, MinHashLSH  # imports slowly

    first: dict[str, str] = {}  # text -> origin of the first row that holds it
    for record in train:
        for side in record.sides:
            first.setdefault(normalised(side), record.origin)
    index = MinHashLSH(num_perm=PERMUTATIONS, params=_bands(threshold))
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
