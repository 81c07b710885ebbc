"""Any encoder-decoder of the NLLB, M2M100 or T5 family, by transformers' generate."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from mmscale.config.corpus_translate import TranslateConfig
from mmscale.config.translation import TranslationConfig
from mmscale.corpus.translators.encoder_decoder import EncoderDecoder, encoder_decoder, keys_of_a_corpus
from mmscale.errors import UserError
from mmscale.translation.questions import translator_files
from mmscale.translation.translator import Translated, Translator, load_translator


@functools.lru_cache(maxsize=1)
def _loaded(config: str) -> Translator:
    """The last model that was asked for, whatever the target."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return load_translator(TranslationConfig.model_validate_json(config), device)


class TransformersTranslator(EncoderDecoder):
    """An encoder-decoder in transformers: NLLB, M2M100, T5, MADLAD."""

    def __init__(self, config: TranslateConfig, source: str, target: str) -> None:
        super().__init__(config, source, target)
        if config.dtype == "int8":
            raise UserError("translate.dtype=int8 is of backend ctranslate2: set float32, bfloat16 or float16")

    @property
    def _path(self) -> str:
        return self.config.model

    @functools.cached_property
    def identity(self) -> Any:
        return translator_files(self._own)

    @functools.cached_property
    def _translator(self) -> Translator:
        alike = encoder_decoder(self.config, self._path, self.source)
        with keys_of_a_corpus():
            loaded = _loaded(alike.model_dump_json())
        return Translator(self._tokenizer, loaded.model, loaded.device)

    def translate(self, texts: Sequence[str]) -> Iterator[tuple[int, Translated]]:
        yield from enumerate(self._translator.translate(texts, [self.source] * len(texts)))
