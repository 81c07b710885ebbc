"""ELECTRA's discriminator; no language codes."""

from transformers import AutoModel

from mmscale.models.encoders.base import Family

FAMILY = Family(
    factory=lambda config: AutoModel,
    build=lambda config: AutoModel.from_config(config),
    half=lambda model: model,
    prepare=lambda tokenizer, language: None,
    width=lambda config: int(config.hidden_size),
    beside=r"^discriminator_predictions\.",
    model_types=("electra",),
)
