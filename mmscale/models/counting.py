"""Parameters of a model from its config.json alone, on the meta device: exact, and without weights."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.models.accounting import without_memory
from mmscale.models.encoders.base import family, family_of, load_encoder_config
from mmscale.models.language_model import load_model_config


def empty_language_model(config: LanguageModelConfig) -> Any:
    """The causal LM of a configuration, without memory."""
    model_config = load_model_config(config)
    return without_memory(lambda: AutoModelForCausalLM.from_config(model_config), config.path)


def empty_encoder(config: EncoderConfig) -> Any:
    """The encoder half that is loaded, without memory."""
    chosen, encoder_config = family(family_of(config)), load_encoder_config(config)
    return chosen.half(without_memory(lambda: chosen.build(encoder_config), config.path))


def encoder_width(config: EncoderConfig) -> int:
    return family(family_of(config)).width(load_encoder_config(config))


def encoder_depth(config: EncoderConfig) -> int:
    return family(family_of(config)).depth(load_encoder_config(config))


def encoder_table(config: EncoderConfig | None) -> int:
    """Elements of an encoder's embedding table; 0 without an encoder."""
    return 0 if config is None else int(empty_encoder(config).get_input_embeddings().weight.numel())


def count(module: nn.Module) -> int:
    """Elements, tied weights once."""
    return sum(p.numel() for p in module.parameters())
