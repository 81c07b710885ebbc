"""Shared fixtures: tiny random models of each family, and the public data folder where it is at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    M2M100Config,
    M2M100Model,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mmscale.data.segments import SpecialTokens
from mmscale.models.attention import PACKED_SDPA
from mmscale.models.encoders import Encoder
from mmscale.models.language_model import LanguageModel
from mmscale.models.mapping import Mapping
from mmscale.models.merge import MergedModel
from mmscale.tinyworld import tokenizer as tinyworld_tokenizer

torch.set_num_threads(2)
VOCABULARY = 64
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
}


def random_causal_lm(family: str, attention: str = PACKED_SDPA):
    """A float64 causal LM with random weights large enough that mistakes show."""
    config_class, model_class, more = _FAMILIES[family]
    torch.manual_seed(5)
    model = model_class._from_config(config_class(**_SHAPE, **more), attn_implementation=attention)
    return model.double().eval()


def random_encoder(family: str) -> Encoder:
    torch.manual_seed(6)
    model = {
        "t5": lambda: T5EncoderModel(T5Config(vocab_size=VOCABULARY, d_model=24, d_kv=6, num_heads=4, d_ff=32, num_layers=2)),
        "m2m100": lambda: M2M100Model(
            M2M100Config(vocab_size=VOCABULARY, d_model=24, encoder_layers=2, decoder_layers=1, encoder_attention_heads=4,
                         decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128)
        ).get_encoder(),
        "xlm_roberta": lambda: XLMRobertaModel(
            XLMRobertaConfig(vocab_size=VOCABULARY, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
                             intermediate_size=32, max_position_embeddings=128), add_pooling_layer=False
        ),
        "decoder": lambda: LlamaForCausalLM(
            LlamaConfig(**{**_SHAPE, "hidden_size": 24})
        ).model,
    }[family]()
    return Encoder(model.double(), 24)


def random_merged(family: str = "llama", encoder: str | None = None) -> MergedModel:
    language_model = LanguageModel(random_causal_lm(family), None, SpecialTokens(1, 2))
    if encoder is None:
        return MergedModel(language_model)
    torch.manual_seed(7)
    mapping = Mapping(24, 32).double()
    torch.nn.init.normal_(mapping.end_boundary)
    return MergedModel(language_model, random_encoder(encoder), mapping)


@pytest.fixture(scope="session")
def tinyworld_tokenizers() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    """(language model tokenizer, encoder tokenizer)."""
    trained = tinyworld_tokenizer.train()
    return tinyworld_tokenizer.language_model_tokenizer(trained), tinyworld_tokenizer.encoder_tokenizer(trained)


@pytest.fixture(scope="session")
def public_data() -> Path:
    """The folder of real public files; tests that read it skip where it is absent."""
    folder = Path(os.environ.get("MMSCALE_PUBLIC_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"public data files are not at {folder}; set MMSCALE_PUBLIC_DATA to their folder")
    return folder
