"""A decoder LLM used as an encoder: its last hidden states, causal as they are."""

from __future__ import annotations

from transformers import AutoModel

from mmscale.models.encoders.base import Family

FAMILY = Family(
    factory=lambda config: AutoModel,
    build=lambda config: AutoModel.from_config(config),
    half=lambda model: model,
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.hidden_size),
    beside=r"^lm_head\.",
    model_types=("llama", "mistral", "qwen2", "qwen3"),
)
