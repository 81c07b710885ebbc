"""What every translator of a corpus is asked for."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from mmscale.config.corpus_translate import TranslateConfig
from mmscale.translation.translator import Translated


class PassageTranslator(ABC):
    """Translates texts from one language into another; made cheaply, weights are loaded when they are needed."""

    usual_unit: Literal["sentence", "text", "row"] = "sentence"
    """What it translates by itself where the configuration does not say."""

    def __init__(self, config: TranslateConfig, source: str, target: str) -> None:
        """Languages by their codes."""
        self.config, self.source, self.target = config, source, target

    @abstractmethod
    def require(self) -> None:
        """UserError where it does not know a language, or where something that it needs is not there; no weights are loaded."""

    @property
    @abstractmethod
    def identity(self) -> Any:
        """What beside the configuration decides its translations, as JSON: digests of its files."""

    @property
    def told(self) -> Any:
        """What tells the model which language is wanted, as JSON: of two languages never the same, or one would get the other's."""
        return [self.source, self.target]

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, as they fill a batch; characters where it has no tokenizer here."""
        return [len(text) for text in texts]

    @abstractmethod
    def translate(self, texts: Sequence[str]) -> Iterator[tuple[int, Translated]]:
        """One batch: (number of the text, its translation), each as it is ready. Depends on nothing but these texts."""


def seed_of(config: TranslateConfig, text: str) -> int:
    """What decides the sampling of one text, below 2^31."""
    return int.from_bytes(hashlib.sha256(f"{config.seed} {text}".encode()).digest()[:4], "big") >> 1
