"""Examples as tokens on disk, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmscale.data.segments import TokenizedExample
from mmscale.data.token_store import PartRun, TokenStore, content_of, token_folder
from mmscale.storage.parts import Part


def stored(folder: Path, examples: Sequence[TokenizedExample], size: int = 4096, name: str = "train") -> TokenStore:
    """The store of these examples, `size` in a part."""
    runs = []
    for number, begin in enumerate(range(0, len(examples), size)):
        chosen = examples[begin : begin + size]
        token_folder(folder).make(Part(name, number), lambda chosen=chosen: content_of(chosen))
        runs.append(PartRun(Part(name, number), 0, len(chosen)))
    return TokenStore(folder, name, runs)
