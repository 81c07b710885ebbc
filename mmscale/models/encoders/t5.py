"""T5, mT5, umT5: the encoder half; no language codes."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, MT5EncoderModel, T5EncoderModel, UMT5EncoderModel

from mmscale.models.encoders.base import Family

_MODELS: dict[str, Any] = {"t5": T5EncoderModel, "mt5": MT5EncoderModel, "umt5": UMT5EncoderModel}


def _load(path: str, **arguments: Any) -> Any:
    loading = {k: v for k, v in arguments.items() if k != "dtype"}
    return _MODELS[AutoConfig.from_pretrained(path, **loading).model_type].from_pretrained(path, **arguments)


FAMILY = Family(
    load=_load,
    build=lambda config: _MODELS[config.model_type](config),
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.d_model),
)
