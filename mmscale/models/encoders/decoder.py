"""A decoder LLM used as an encoder: its last hidden states, causal as they are."""

from __future__ import annotations

from typing import Any

from transformers import AutoModel

from mmscale.models.encoders.base import Family


def _load(path: str, **arguments: Any) -> Any:
    return AutoModel.from_pretrained(path, **arguments)


FAMILY = Family(
    load=_load,
    build=lambda config: AutoModel.from_config(config),
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.hidden_size),
)
