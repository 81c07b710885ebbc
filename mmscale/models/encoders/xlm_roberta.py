"""XLM-R and other encoder-only models (RoBERTa, BERT); no language codes."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel

from mmscale.models.encoders.base import Family


def _load(path: str, **arguments: Any) -> Any:
    return AutoModel.from_pretrained(path, add_pooling_layer=False, **arguments)


FAMILY = Family(
    load=_load,
    build=lambda config: AutoModel.from_config(config, add_pooling_layer=False),
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.hidden_size),
)
