"""Shared fixtures: tiny random models of each family, and the public data folder where it is at hand."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
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
from transformers.convert_slow_tokenizer import TikTokenConverter

from mmscale.data.segments import SpecialTokens
from mmscale.models.attention import PACKED_SDPA
from mmscale.models.connectors import Depths, connector
from mmscale.models.encoders import Encoder
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.tinyworld import tokenizer as tinyworld_tokenizer

torch.set_num_threads(2)
os.environ.setdefault("MMSCALE_CACHE", str(Path(tempfile.gettempdir()) / "mmscale-tests"))
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
    model = model_class._from_config(config_class(**_SHAPE, **more), attn_implementation=attention)  # type: ignore[attr-defined]
    return model.double().eval()


def random_encoder(family: str) -> Encoder:
    torch.manual_seed(6)
    model = {
        "t5": lambda: T5EncoderModel(
            T5Config(vocab_size=VOCABULARY, d_model=24, d_kv=6, num_heads=4, d_ff=32, num_layers=2)
        ),
        "m2m100": lambda: M2M100Model(
            M2M100Config(
                vocab_size=VOCABULARY,
                d_model=24,
                encoder_layers=2,
                decoder_layers=1,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                max_position_embeddings=128,
            )
        ).get_encoder(),
        "xlm_roberta": lambda: XLMRobertaModel(
            XLMRobertaConfig(
                vocab_size=VOCABULARY,
                hidden_size=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                intermediate_size=32,
                max_position_embeddings=128,
            ),
            add_pooling_layer=False,
        ),
        "decoder": lambda: LlamaForCausalLM(LlamaConfig(**{**_SHAPE, "hidden_size": 24})).model,
    }[family]()
    return Encoder(model.double(), 24)


def random_merged(
    family: str = "llama", encoder: str | None = None, attention: str = PACKED_SDPA, joined_by: str = "mlp"
) -> MergedModel:
    language_model = LanguageModel(random_causal_lm(family, attention), None, SpecialTokens(1, 2))
    if encoder is None:
        return MergedModel(language_model)
    kind, reads = connector(joined_by), random_encoder(encoder)
    reads.all_layers = kind.reads_all_layers
    torch.manual_seed(7)
    mapping = kind.build(24, 32, Depths(reads.depth, language_model.depth)).double()
    torch.nn.init.normal_(next(value for name, value in mapping.named_parameters() if name.endswith("end_boundary")))
    return MergedModel(language_model, reads, mapping)


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


def _sentencepiece(file: Path, folder: Path):
    """A LLaMA-style tokenizer folder around a SentencePiece model, loaded as a user's folder would be."""
    folder.mkdir(parents=True)
    shutil.copy(file, folder / "tokenizer.model")
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": True, "legacy": True}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "bos_token_id": 1, "eos_token_id": 2}))
    return AutoTokenizer.from_pretrained(folder), LlamaConfig(bos_token_id=1, eos_token_id=2)


def _tiktoken(file: Path, specials: dict[str, int], pattern: str | None, **named: str):
    """A fast tokenizer from a tiktoken rank file, special tokens at their published ids."""
    pytest.importorskip("tiktoken", reason="reading tiktoken rank files needs the package tiktoken (extra dev)")
    more = {} if pattern is None else {"pattern": pattern}
    converted = TikTokenConverter(vocab_file=str(file), extra_special_tokens=list(specials), **more).converted()
    assert {token: converted.token_to_id(token) for token in specials} == specials
    return PreTrainedTokenizerFast(tokenizer_object=converted, clean_up_tokenization_spaces=False, **named)


_QWEN_PATTERN = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
PUBLIC_TOKENIZERS = ("llama2", "llama3", "mistral", "qwen")


@pytest.fixture(scope="session")
def public_tokenizer(public_data, tmp_path_factory):
    """name -> (tokenizer, model config) of the real vocabularies of four families."""

    @functools.cache
    def load(name: str):
        folder = public_data / "tokenizers"
        if name in ("llama2", "mistral"):
            file = folder / name / ("tokenizer.model" if name == "llama2" else "tokenizer.model.v1")
            return _sentencepiece(file, tmp_path_factory.mktemp("tokenizer") / name)
        if name == "llama3":
            specials = {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001}
            named = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
            tokenizer = _tiktoken(folder / "llama3" / "tokenizer.model", specials, None, **named)
            return tokenizer, LlamaConfig(vocab_size=128256, bos_token_id=128000, eos_token_id=128001)
        specials = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
        tokenizer = _tiktoken(folder / "qwen" / "qwen.tiktoken", specials, _QWEN_PATTERN, eos_token="<|im_end|>")
        return tokenizer, Qwen2Config(vocab_size=151936, bos_token_id=151643, eos_token_id=151645)

    return load
