"""M2M100 and NLLB: the encoder half; the source language's code is set for every sample."""

from __future__ import annotations

from typing import Any

from transformers import AutoModelForSeq2SeqLM

from mmscale.cldr import other_codes
from mmscale.errors import UserError
from mmscale.languages import LANGUAGES, language
from mmscale.models.encoders.base import Family


def language_token(tokenizer: Any, code: str, own: str | None = None) -> tuple[str, int]:
    """(what the tokenizer calls a language, the id of its token): NLLB knows FLORES codes (swh_Latn), M2M100 ISO codes (sw).

    `own` is looked for instead where it is given. UserError where the tokenizer knows no such language. A folder saved by an
    older transformers, or the original one, keeps M2M100's codes out of its vocabulary: the tokenizer numbers them behind it.
    """
    tokens = _usual_tokens(code) if own is None else [(own, own if "_" in own else f"__{own}__")]
    known = {**tokenizer.get_vocab(), **getattr(tokenizer, "lang_token_to_id", {})}
    for name, token in tokens:
        if token in known:
            return name, int(known[token])
    looked = " or ".join(token for _, token in tokens)
    raise UserError(f"the model's tokenizer has no code for language '{code}' ({looked}): leave that language out")


def _usual_tokens(code: str) -> list[tuple[str, str]]:
    """(name, token) of what a language may be called: its FLORES code, and its own or one that was used for it before."""
    flores = language(code).nllb
    others = [code, *([] if code in LANGUAGES else other_codes(code))]
    return [(flores, flores)] * bool(flores) + [(other, f"__{other}__") for other in others]


def set_source(tokenizer: Any, code: str, own: str | None = None) -> None:
    """Make the tokenizer write a language's code at texts; UserError where it does not know it, or writes none."""
    name, index = language_token(tokenizer, code, own)
    tokenizer.src_lang = name
    if index not in tokenizer(["a"])["input_ids"][0]:
        raise UserError(
            f"the model's tokenizer ({type(tokenizer).__name__}) does not write the code of a text's language ({name}): name its "
            f"own class, NllbTokenizer or M2M100Tokenizer, in tokenizer_config.json"
        )


def _prepare(tokenizer: Any, code: str) -> None:
    set_source(tokenizer, code)


FAMILY = Family(
    factory=lambda config: AutoModelForSeq2SeqLM,
    build=lambda config: AutoModelForSeq2SeqLM.from_config(config),
    half=lambda model: model.get_encoder(),
    prepare=_prepare,
    width=lambda config: int(config.d_model),
    beside=r"^$",
    model_types=("m2m_100", "nllb", "nllb-moe"),
)
