"""Checkpoints of every family from a folder: language models, encoders, and what is refused."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaModel,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MT5Config,
    MT5ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from mmscale import logs
from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.data.packing import EncoderRow
from mmscale.errors import UserError
from mmscale.models.encoders import load_encoder, load_encoder_tokenizer
from mmscale.models.encoders.base import family_of
from mmscale.models.language_model import load_language_model
from mmscale.models.places import resolve_path
from mmscale.parallel.context import ParallelContext
from tests.conftest import VOCABULARY, random_causal_lm

CPU = torch.device("cpu")
HERE = ParallelContext(device=CPU)


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_a_language_model_folder_gives_the_same_logits_as_transformers(tmp_path, tinyworld_tokenizers, family):
    model = random_causal_lm(family, "sdpa").float()
    model.resize_token_embeddings(len(tinyworld_tokenizers[0]))
    model.save_pretrained(tmp_path)
    tinyworld_tokenizers[0].save_pretrained(tmp_path)
    loaded = load_language_model(LanguageModelConfig(path=str(tmp_path)), HERE)
    ids = torch.tensor([1, 9, 8, 7])
    from mmscale.models.packed_layout import PackedLayout

    hidden = loaded.hidden(loaded.embed(ids), torch.arange(4), PackedLayout((4,), CPU))
    assert torch.allclose(loaded.logits(hidden), model(ids[None]).logits[0], atol=1e-5)
    assert loaded.specials.bos == 1


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path, tinyworld_tokenizers):
    random_causal_lm("llama", "sdpa").save_pretrained(tmp_path)
    tinyworld_tokenizers[0].save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"but the model embeds {VOCABULARY}"):
        load_language_model(LanguageModelConfig(path=str(tmp_path)), HERE)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("generation_config.json", '{"eos_token_id": [2,', "generation_config.json is not valid JSON"),
        ("generation_config.json", '{"eos_token_id": 2048}', "end token 2048, which is no id below 2048"),
        ("generation_config.json", '{"eos_token_id": [2, "</s>"]}', "end token '</s>', which is no id"),
        ("generation_config.json", '{"eos_token_id": [2, 300]}', "ends text with token 300, in its tokenizer"),
        (
            "tokenizer.json",
            "version https://git-lfs.github.com/spec/v1\nsize 5\n",
            "tokenizer.json is a git-lfs pointer",
        ),
        ("tokenizer.json", None, "it holds no tokenizer"),
        ("config.json", "[]", "config.json holds no JSON object"),
        ("config.json", None, "holds no config.json"),
    ],
)
def test_a_damaged_file_beside_the_weights_is_named(tmp_path, name, text, said):
    """transformers passes over a damaged generation_config.json, and stops where it should not."""
    shutil.copytree(resolve_path("tinyworld:llm"), tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink(missing_ok=True)
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=re.escape(said)):
        load_language_model(LanguageModelConfig(path=str(tmp_path)), HERE)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tokenizer_config.json", {"extra_special_tokens": {"x": "apples"}}, "the id 2048 for 'apples'"),
        ("tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"}, "otherwise than tokenizer.json"),
        ("tokenizer_config.json", {"eos_token": "1"}, "its tokenizer ends text with 1, which is taken"),
        ("generation_config.json", {"suppress_tokens": [5]}, "sets suppress_tokens, of which nothing is used"),
        ("generation_config.json", {"temperature": 2.0, "do_sample": True, "num_beams": 1}, ""),
    ],
)
def test_what_a_file_says_beside_the_weights_is_refused_or_said(tmp_path, capsys, name, change, said):
    """None of it changes what is asked for, and none of it goes unsaid where it would change an answer."""
    shutil.copytree(resolve_path("tinyworld:llm"), tmp_path, dirs_exist_ok=True)
    values = json.loads((tmp_path / name).read_text())
    (tmp_path / name).write_text(json.dumps({**values, **change}))
    with logs.session():
        try:
            load_language_model(LanguageModelConfig(path=str(tmp_path)), HERE)
            told = "".join(line for line in capsys.readouterr().err.splitlines() if "warning" in line)
        except UserError as error:
            told = str(error)
    assert said in told and bool(said) == bool(told)


def test_an_explicit_flash_attention_without_a_gpu_is_refused():
    with pytest.raises(UserError, match="needs a CUDA device and flash-attn"):
        load_language_model(LanguageModelConfig(path="tinyworld:llm", attention="flash_attention_2"), HERE)


_SMALL = {"vocab_size": 2048, "d_model": 24}
_T5 = {**_SMALL, "d_kv": 6, "num_heads": 4, "d_ff": 32, "num_layers": 1, "decoder_start_token_id": 0}
ENCODERS = {
    "t5": lambda: T5ForConditionalGeneration(T5Config(**_T5)),
    "mt5": lambda: MT5ForConditionalGeneration(MT5Config(**_T5)),
    "m2m100": lambda: M2M100ForConditionalGeneration(
        M2M100Config(
            **_SMALL,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
        )
    ),
    "xlm_roberta": lambda: XLMRobertaModel(
        XLMRobertaConfig(
            vocab_size=2048, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32
        )
    ),
    "decoder": lambda: LlamaModel(
        LlamaConfig(vocab_size=2048, hidden_size=24, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_family_loads_from_a_folder_frozen(tmp_path, tinyworld_tokenizers, name):
    torch.manual_seed(0)
    ENCODERS[name]().save_pretrained(tmp_path)
    tinyworld_tokenizers[1].save_pretrained(tmp_path)
    config = EncoderConfig(path=str(tmp_path))
    assert family_of(config) == ("t5" if name == "mt5" else name)
    encoder = load_encoder(config, CPU)
    states = encoder.states(EncoderRow(torch.tensor([5, 6, 7, 8]), [3, 1], ["sw", "de"]))
    assert states.shape == (4, 24) and not states.requires_grad and not encoder.training


class NllbTokenizer:
    """The part of an NLLB tokenizer that matters: FLORES codes in its vocabulary, src_lang decides the first token."""

    src_lang = ""

    def get_vocab(self):
        return {"swh_Latn": 100, "deu_Latn": 101}

    def __call__(self, texts, **_):
        return {"input_ids": [[self.get_vocab()[self.src_lang], len(text), 2] for text in texts]}


def test_nllb_sets_the_source_language_of_every_sample():
    from mmscale.models.encoders.base import FamilyTokenizer, family

    tokenizer = FamilyTokenizer(NllbTokenizer(), family("m2m100"))
    assert tokenizer.encode(["a", "bb", "ccc"], ["sw", "de", "sw"], 9) == [[100, 1, 2], [101, 2, 2], [100, 3, 2]]
    with pytest.raises(UserError, match="no code for language 'te'"):
        tokenizer.encode(["a"], ["te"], 9)


def test_an_encoder_of_unknown_kind_is_told(tmp_path, tinyworld_tokenizers):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match=r"has model type 'gpt2': set encoder.family"):
        load_encoder_tokenizer(EncoderConfig(path=str(tmp_path)))


def test_frozen_parts_hold_no_gradient_and_no_optimizer_state(tmp_path):
    from tests.training.test_resume import make_trainer

    trainer = make_trainer(tmp_path, steps=2)
    trainer.run()
    model = trainer.engine.objective.module  # type: ignore[attr-defined]
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("connector."))
    names = {fragment.name for fragment in trainer.engine.fragments()}
    assert names == {n for n, _ in model.named_parameters() if n.startswith("connector.")} and len(names) == 5
