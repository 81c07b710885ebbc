"""M2M100 and NLLB: the encoder half; the source language's code is set for every sample."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForSeq2SeqLM

from mmscale.errors import UserError
from mmscale.languages import language
from mmscale.models.encoders.base import Family


def _prepare(tokenizer: Any, code: str) -> None:
    """NLLB knows FLORES codes (swh_Latn), M2M100 knows ISO codes (sw).

    A folder saved by an older transformers, or the original one, keeps M2M100's codes out of its vocabulary: the tokenizer
    numbers them behind it.
    """
    flores = language(code).nllb
    known = {**tokenizer.get_vocab(), **getattr(tokenizer, "lang_token_to_id", {})}
    for name, token in ((flores, flores), (code, f"__{code}__")):
        if token in known:
            tokenizer.src_lang = name
            return
    raise UserError(
        f"the encoder's tokenizer has no code for language '{code}' ({flores} or __{code}__): leave that language out"
    )


FAMILY = Family(
    factory=lambda config: AutoModelForSeq2SeqLM,
    build=lambda config: AutoModelForSeq2SeqLM.from_config(config),
    half=lambda model: model.get_encoder(),
    prepare=_prepare,
    width=lambda config: int(config.d_model),
    beside=r"^$",
    model_types=("m2m_100", "nllb", "nllb-moe"),
)
