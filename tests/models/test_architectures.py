"""Architectures are known right or refused: scales and caps of logits, and the comparison that a first load makes."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config

from benchmarks.architectures import FAMILIES, PAGE, configuration, find, page, tried
from mmscale.cli.main import main
from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models import head, self_check
from mmscale.models.language_model import bare, context_length, load_language_model
from mmscale.models.packed_layout import PackedLayout
from mmscale.models.packed_linear import pack_linears
from mmscale.models.places import resolve_path
from mmscale.models.self_check import require_known_right
from mmscale.models.small_config import small_config
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.logit_rules import PLAIN

HERE = ParallelContext(device=torch.device("cpu"))
SCALED = ("Granite", "Cohere", "Gemma 3 (capped logits)")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MMSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "architectures"


def folder_of(name: str, target):
    """A random model of a family with the embedded tokenizer; its head large enough to be packed."""
    target.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(f"{resolve_path('tinyworld:llm')}/{file}", target)
    config = configuration(name)
    config.vocab_size, config.hidden_size, config.tie_word_embeddings = 4096, 64, False
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(target)
    return model


@pytest.mark.parametrize("name", SCALED)
def test_scaled_and_capped_logits_are_those_of_transformers(tmp_path, name):
    """Logits, loss and its gradient; also where the weights are laid out for answering."""
    expected = folder_of(name, tmp_path / "model")
    ours = load_language_model(LanguageModelConfig(path=str(tmp_path / "model")), HERE)
    ids = torch.tensor([5, 9, 300, 7, 8, 2000, 11])
    right = expected(ids[None]).logits[0]
    loss = F.cross_entropy(right[:-1], ids[1:], reduction="sum")
    loss.backward()
    hidden = ours.hidden(ours.embed(ids), torch.arange(7), PackedLayout((7,), ids.device))
    found = ours.cross_entropy_sum(hidden[:-1], ids[1:])
    found.backward()
    assert torch.allclose(ours.logits(hidden), right, rtol=1e-4, atol=1e-4)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    gradient = expected.get_output_embeddings().weight.grad
    assert torch.allclose(ours.causal_lm.get_output_embeddings().weight.grad, gradient, rtol=1e-3, atol=1e-4)
    pack_linears(ours.causal_lm)
    with torch.no_grad():
        assert torch.allclose(ours.logits(hidden), right, rtol=1e-4, atol=1e-4)


def test_a_rule_that_is_forgotten_is_seen(cache, monkeypatch):
    monkeypatch.setattr(head, "logit_rules", lambda config: PLAIN)
    for name in SCALED:
        with pytest.raises(UserError, match=r"its (loss|logits) here differs by"):
            require_known_right(configuration(name), name, HERE, bare, False)


@pytest.mark.parametrize("mistake", ["window", "scale", "places"])
def test_mistakes_of_attention_are_seen(cache, monkeypatch, mistake):
    """Each in one of the ways that a family's attention differs from others."""
    from mmscale.models import varlen

    kept = varlen.padded_sdpa

    def wrong(query, key, value, layout, scale, dropout, window):
        changed = {"window": (scale, dropout, None), "scale": (2 * scale, dropout, window)}
        return kept(query, key, value, layout, *changed.get(mistake, (scale, dropout, window)))

    from transformers import AttentionInterface

    from mmscale.models import attention

    monkeypatch.setitem(AttentionInterface._global_mapping, attention.PACKED_SDPA, attention._attend(wrong))
    if mistake == "places":
        cached = attention._cached
        monkeypatch.setattr(attention, "_cached", lambda *a: cached(*a) * 1.1)
    with pytest.raises(UserError, match=r"here differs by|does not run"):
        require_known_right(configuration("Mistral (window)"), "M", HERE, bare, False)


def test_what_was_found_is_remembered_by_its_settings(cache, monkeypatch):
    config = configuration("LLaMA")
    require_known_right(config, "M", HERE, bare, False)
    (file,) = cache.iterdir()
    assert json.loads(file.read_text()) == {"problem": ""}
    monkeypatch.setattr(self_check, "_problem", lambda *_: "it was tried again")
    require_known_right(config, "M", HERE, bare, False)
    for other in (configuration("LLaMA, tied, with biases"), configuration("Qwen 2")):
        with pytest.raises(UserError, match="it was tried again"):
            require_known_right(other, "M", HERE, bare, False)
    assert list(cache.iterdir()) == [file], "what failed is compared again, and not held against it for ever"
    file.write_text("{")
    with pytest.raises(UserError, match="it was tried again"):
        require_known_right(config, "M", HERE, bare, False)


def test_where_nothing_can_be_kept_it_is_compared_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MMSCALE_CACHE", str(tmp_path / "file"))
    require_known_right(configuration("LLaMA"), "M", HERE, bare, False)


@pytest.mark.parametrize(
    ("name", "class_name"),
    [
        ("StableLM", "StableLmForCausalLM"),
        ("Nemotron", "NemotronForCausalLM"),
        ("Llama 4 (text)", "Llama4ForCausalLM"),
        ("Falcon", "FalconForCausalLM"),
        ("Gemma 2", "Gemma2ForCausalLM"),
        ("GPT-J", "GPTJForCausalLM"),
    ],
)
def test_an_architecture_that_is_not_supported_is_named(tmp_path, capsys, name, class_name):
    config = configuration(name)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    config.architectures = [class_name]
    config.save_pretrained(tmp_path)
    assert main(["generate", str(tmp_path), "Hi"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{tmp_path}: {class_name} is not supported: " in error and "docs/architectures.md" in error
    assert "transformers/issues" not in error and len(error) < 400


def test_small_configurations_keep_what_matters():
    config = configuration("Gemma 3")
    small = small_config(config, 2)
    assert set(small.layer_types) == set(config.layer_types) and small.num_hidden_layers == len(small.layer_types)
    assert small.sliding_window == 4 and small.query_pre_attn_scalar == 16
    assert small.num_key_value_heads % 2 == 0 and small.num_attention_heads > small.num_key_value_heads


def test_rotations_that_change_with_length_are_used_below_that_length():
    factors = {"long_factor": [2.0] * 8, "short_factor": [1.0] * 8}
    settings = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    longrope = {"rope_type": "longrope", "rope_theta": 1e4, **factors}
    lengths = {"max_position_embeddings": 1024, "original_max_position_embeddings": 64}
    config = Phi3Config(**settings, **lengths, rope_parameters=longrope)
    assert context_length(config) == 64
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert context_length(LlamaConfig(max_position_embeddings=256, rope_parameters=dynamic)) == 256
    assert context_length(configuration("LLaMA 3 (scaled rotations)")) == 256
    assert context_length(configuration("Gemma 3")) == 256, "whose rotations differ by kind of layer"


def test_the_page_says_what_is_found():
    """Some of its rows; the slow test below takes all."""
    written = PAGE.read_text(encoding="utf-8").splitlines()
    for name in ("LLaMA", "Gemma", "Granite", "StableLM"):
        problem = tried(name, HERE)
        (row,) = [line for line in written if line.startswith(f"| {name} |")]
        assert ("| yes |" in row) == (not problem) and problem in row, name
    assert {line.split(" | ")[0].removeprefix("| ") for line in written if line.startswith("| ")} >= set(FAMILIES)


@pytest.mark.slow
def test_every_row_of_the_page_is_what_is_found():
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    assert page(*find(list(FAMILIES))) == PAGE.read_text(encoding="utf-8")
