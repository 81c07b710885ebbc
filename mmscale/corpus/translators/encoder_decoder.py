"""What the translators of the NLLB, M2M100 and T5 families share, whatever computes them."""

from __future__ import annotations

import contextlib
import functools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from mmscale.config.corpus_translate import TranslateConfig
from mmscale.config.translation import TranslationConfig
from mmscale.corpus.translators.base import PassageTranslator
from mmscale.errors import UserError
from mmscale.translation.translator import SourceText, TranslatorTokenizer


@contextlib.contextmanager
def keys_of_a_corpus() -> Iterator[None]:
    """What a translator refuses names keys of a run's `translation`; a corpus calls them otherwise."""
    try:
        yield
    except UserError as error:
        said = str(error).replace("translation.path", "translate.model").replace("translation.", "translate.")
        raise UserError(said) from error


class EncoderDecoder(PassageTranslator):
    """A model that is told of languages by its own tokenizer: by codes, or by a prefix."""

    @property
    @abstractmethod
    def _path(self) -> str:
        """Where its tokenizer and its configuration are."""

    def require(self) -> None:
        with keys_of_a_corpus():
            self._tokenizer.require([self.source])

    @property
    def told(self) -> Any:
        return self._tokenizer.told(self.source)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(one.ids) for one in self._encoded(texts)]

    def _encoded(self, texts: Sequence[str]) -> list[SourceText]:
        return self._tokenizer.encode(texts, [self.source] * len(texts))

    @functools.cached_property
    def _own(self) -> TranslationConfig:
        return encoder_decoder(self.config, self._path, self.target)

    @functools.cached_property
    def _tokenizer(self) -> TranslatorTokenizer:
        with keys_of_a_corpus():
            return TranslatorTokenizer(self._own)


def encoder_decoder(config: TranslateConfig, path: str, target: str) -> TranslationConfig:
    """The configuration of an encoder-decoder for one target language."""
    return TranslationConfig(
        path=path,
        dtype="float32" if config.dtype is None or config.dtype == "int8" else config.dtype,
        target=target,
        codes=config.codes,
        prefix=config.prefix,
        beams=config.beams,
        max_source_tokens=config.max_source_tokens,
        max_new_tokens=config.max_new_tokens,
    )
