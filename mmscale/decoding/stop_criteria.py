"""When a continuation ends, and how its text is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class StopCriteria:
    """Tokens and texts that end a continuation; none of them is part of its text."""

    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    decode: Callable[[list[int]], str]

    def with_texts(self, texts: Sequence[str]) -> StopCriteria:
        return replace(self, stop_texts=tuple(texts))

    def reached(self, ids: list[int]) -> bool:
        if ids[-1] in self.stop_ids:
            return True
        if not self.stop_texts:
            return False
        # a token may be a single byte of a letter: LLaMA-2 writes a Telugu letter in three
        tail = self.decode(ids[-max(len(stop.encode()) for stop in self.stop_texts) - 4 :])
        return any(stop in tail for stop in self.stop_texts)

    def text(self, ids: list[int]) -> str:
        text = self.decode([i for i in ids if i not in self.stop_ids])
        cut = [text.index(stop) for stop in self.stop_texts if stop in text]
        return text[: min(cut)] if cut else text


def stop_criteria(language_model: Any, stop_texts: Sequence[str] = ()) -> StopCriteria:
    """EOS of ours and of the model's generation config (LLaMA-3 has several), and stop texts."""
    tokenizer = language_model.tokenizer
    return StopCriteria(
        language_model.stop_ids, tuple(stop_texts), lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True))
    )
