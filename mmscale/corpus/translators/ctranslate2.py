"""NLLB, M2M100, T5 and MADLAD by CTranslate2: int8 on CPUs, float16 on GPUs. `mmscale convert --to ctranslate2` makes its folders."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ctranslate2

from mmscale.conversion.ctranslate2 import NOTES, TOKENIZER
from mmscale.corpus.translators.encoder_decoder import EncoderDecoder
from mmscale.errors import UserError
from mmscale.storage.reading import read_json_object
from mmscale.translation.translator import SourceText, Translated


@functools.lru_cache(maxsize=1)
def _loaded(model: str, device: str, compute_type: str) -> Any:
    """The last model that was asked for, whatever the languages."""
    try:
        return ctranslate2.Translator(
            str(Path(model).expanduser()),
            device=device,
            compute_type=compute_type,
            inter_threads=1,
            intra_threads=int(os.environ.get("OMP_NUM_THREADS", "0")),
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"CTranslate2 cannot load translate.model={model} as {compute_type} on {device} ({str(error).splitlines()[0]}): convert "
            f"it again, or set another translate.dtype"
        ) from error


class CTranslate2Translator(EncoderDecoder):
    """A model that `mmscale convert MODEL FOLDER --to ctranslate2` made, by CTranslate2."""

    @functools.cached_property
    def identity(self) -> Any:
        return [self._notes, self._device, self._compute_type]

    @functools.cached_property
    def _notes(self) -> dict[str, Any]:
        """What the conversion wrote of the model, a digest of its weights among it."""
        file = Path(self.config.model).expanduser() / NOTES
        if not file.is_file():
            raise UserError(
                f"translate.model={self.config.model} is no folder of ours for CTranslate2: make one of a model of the NLLB, M2M100 "
                f"or T5 family with `mmscale convert MODEL FOLDER --to ctranslate2`"
            )
        return read_json_object(file, "convert the model again")

    @property
    def _path(self) -> str:
        _ = self._notes
        return str(Path(self.config.model).expanduser() / TOKENIZER)

    @property
    def _device(self) -> str:
        return "cuda" if ctranslate2.get_cuda_device_count() else "cpu"

    @property
    def _compute_type(self) -> str:
        return self.config.dtype or ("float16" if self._device == "cuda" else "int8")

    @property
    def _model(self) -> Any:
        return _loaded(self.config.model, self._device, self._compute_type)

    def translate(self, texts: Sequence[str]) -> Iterator[tuple[int, Translated]]:
        named, sources = self._tokenizer.tokenizer, self._encoded(texts)
        first = self._tokenizer.first_token
        prefix = None if first is None else [named.convert_ids_to_tokens([first])] * len(texts)
        made = self._model.translate_batch(
            [named.convert_ids_to_tokens(source.ids) for source in sources],
            target_prefix=prefix,
            beam_size=self.config.beams,
            max_input_length=0,  # our tokenizer has cut them, and says so
            max_decoding_length=self.config.max_new_tokens + (first is not None),
            min_decoding_length=0,
            return_end_token=True,
        )
        for number, (result, source) in enumerate(zip(made, sources, strict=True)):
            yield number, self._read(result.hypotheses[0][first is not None :], source)

    def _read(self, tokens: list[str], source: SourceText) -> Translated:
        named = self._tokenizer.tokenizer
        finished = bool(tokens) and tokens[-1] == named.eos_token
        codes = getattr(named, "lang_token_to_id", {})  # M2M100's, which its tokenizer takes for text
        ids = named.convert_tokens_to_ids([one for one in (tokens[:-1] if finished else tokens) if one not in codes])
        text = str(named.decode(ids, skip_special_tokens=True)).strip()
        return Translated(text, source.cut, source.unknown, finished, self._tokenizer.holds_unknown(ids))
