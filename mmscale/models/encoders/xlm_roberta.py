"""XLM-R and other encoder-only models (RoBERTa, BERT); no language codes."""

from __future__ import annotations

from transformers import AutoModel

from mmscale.models.encoders.base import Family

FAMILY = Family(
    factory=lambda config: AutoModel,
    build=lambda config: AutoModel.from_config(config, add_pooling_layer=False),
    half=lambda model: model,
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.hidden_size),
    beside=r"^(lm_head|cls|classifier|qa_outputs)\.|(^|\.)pooler\.",
    arguments={"add_pooling_layer": False},
    model_types=("xlm-roberta", "roberta", "bert", "xlm-roberta-xl"),
)
