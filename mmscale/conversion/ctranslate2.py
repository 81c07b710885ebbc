"""An encoder-decoder of the NLLB, M2M100 or T5 family as a folder that CTranslate2 loads, by CTranslate2's own converter.

The weights come from safetensors, all of them accounted for, and nothing of the model's folder is run. Beside them lie the tokenizer
and the model's configuration.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ctranslate2.converters import TransformersConverter

from mmscale.config.translation import TranslationConfig
from mmscale.errors import UserError
from mmscale.models.loading import load_model_configuration
from mmscale.storage.files import sha256, write_json
from mmscale.translation.questions import translator_files
from mmscale.translation.translator import Translator, load_translator

NOTES, TOKENIZER = "mmscale.json", "tokenizer"
"""What the conversion says of the model; folder of its tokenizer and configuration."""


class _WithCodes:
    """M2M100's tokenizer as CTranslate2's converter asks for it: codes of languages, which are not in the vocabulary, named beside it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    @property
    def special_tokens_map(self) -> dict[str, Any]:
        codes: dict[str, int] = getattr(self._tokenizer, "lang_token_to_id", {})
        named = {**self._tokenizer.special_tokens_map}
        return {**named, "additional_special_tokens": sorted(codes, key=codes.__getitem__)} if codes else named


class _Converter(TransformersConverter):
    """CTranslate2's, of a model that is loaded already."""

    def __init__(self, path: str, loaded: Translator) -> None:
        super().__init__(path)
        self._translator = loaded

    def load_model(self, model_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
        return self._translator.model

    def load_tokenizer(self, tokenizer_class: Any, model_name_or_path: str, **kwargs: Any) -> Any:
        return _WithCodes(self._translator.tokenizer.tokenizer)


def to_ctranslate2(source: str, folder: Path, dtype: str | None) -> str:
    """Write the folder; says what was written. UserError for what is no such model."""
    config = TranslationConfig(path=source, prefix=_any_prefix(source), max_source_tokens=4, max_new_tokens=1)
    loaded = load_translator(config, torch.device("cpu"))
    if loaded.tokenizer.tokenizer.unk_token is None:
        raise UserError(f"{source}: its tokenizer has no token for what it does not know, and CTranslate2 needs one")
    try:
        _Converter(source, loaded).convert(str(folder), quantization=dtype, force=True)
    except (ValueError, RuntimeError, NotImplementedError, AttributeError) as error:
        raise UserError(f"CTranslate2 cannot convert {source} ({str(error).splitlines()[0]})") from error
    own = folder / TOKENIZER
    loaded.tokenizer.tokenizer.save_pretrained(own)
    loaded.model.config.save_pretrained(own)
    notes = {
        "source": source,
        "files": translator_files(config),
        "dtype": dtype or "as it was",
        "ctranslate2": version("ctranslate2"),
        "model_sha256": sha256(folder / "model.bin"),
    }
    write_json(folder / NOTES, notes)
    return f"{sum(p.numel() for p in loaded.model.parameters()):,} parameters for CTranslate2, {dtype or 'dtype as it was'}"


def _any_prefix(source: str) -> str | None:
    """A prefix for families that need one to be asked; converting asks nothing."""
    model_type = load_model_configuration(TranslationConfig(path=source).checkpoint, "model's configuration").model_type
    return " " if model_type in ("t5", "mt5", "umt5") else None
