"""T5, mT5, umT5: the encoder half; no language codes."""

from __future__ import annotations

from typing import Any

from transformers import MT5EncoderModel, T5EncoderModel, UMT5EncoderModel

from mmscale.models.encoders.base import Family

_MODELS: dict[str, Any] = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}

FAMILY = Family(
    factory=lambda config: _MODELS[config.model_type],
    build=lambda config: _MODELS[config.model_type](config),
    half=lambda model: model,
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.d_model),
    beside=r"^(decoder|lm_head)\.",
    model_types=("t5", "mt5", "umt5"),
)
