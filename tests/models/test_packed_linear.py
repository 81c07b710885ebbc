"""Weights in oneDNN's layout: the same products, no second copy, and only where they belong to one layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from mmscale.answering.local import local_answerer
from mmscale.config.model import LanguageModelConfig
from mmscale.models import packed_linear
from mmscale.models.assembly import ModelParts
from mmscale.models.head import install_loss_head
from mmscale.models.packed_linear import PackedLinear, can_pack, pack_linears
from mmscale.parallel.context import ParallelContext

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
SIZES = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(packed_linear, "LEAST", 0)


def model(kind, config, **more):
    torch.manual_seed(0)
    found = kind(config(**SIZES, num_key_value_heads=2, **more)).eval().requires_grad_(False)
    install_loss_head(found)
    return found


@pytest.mark.parametrize("rows", [0, 1, 2, 7, 16, 33, 300])
@pytest.mark.parametrize(("out", "width"), [(1, 1), (3, 5), (64, 64), (130, 67)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_float64(rows, out, width, bias):
    torch.manual_seed(rows)
    layer, x = nn.Linear(width, out, bias=bias), torch.randn(rows, width)
    with torch.inference_mode():
        exact = copy.deepcopy(layer).double()(x.double())
        pack_linears(layer)
        found = layer(x)
    assert isinstance(layer, PackedLinear) and found.shape == (rows, out)
    assert torch.allclose(found.double(), exact, atol=1e-5)


def test_products_in_bfloat16_are_those_of_float64():
    torch.manual_seed(0)
    layer, x = nn.Linear(96, 64).to(torch.bfloat16), torch.randn(5, 96, dtype=torch.bfloat16)
    if not can_pack(layer.weight):
        pytest.skip("oneDNN has no bfloat16 on this processor")
    with torch.inference_mode():
        exact = copy.deepcopy(layer).double()(x.double())
        pack_linears(layer)
        assert (layer(x).double() - exact).norm() < 2**-8 * exact.norm()


@pytest.mark.parametrize(
    ("kind", "config"), [(LlamaForCausalLM, LlamaConfig), (Qwen2ForCausalLM, Qwen2Config)], ids=["llama", "qwen"]
)
def test_a_model_answers_as_before(kind, config):
    """Qwen's layers have biases."""
    plain = model(kind, config, tie_word_embeddings=False)
    packed = copy.deepcopy(plain)
    pack_linears(packed)
    kinds = {type(module) for module in packed.modules() if isinstance(module, nn.Linear)}
    ids = torch.randint(96, (2, 9))
    with torch.inference_mode():
        assert kinds == {PackedLinear}
        assert torch.allclose(packed(ids).logits, plain(ids).logits, atol=1e-5)
    count = [sum(parameter.numel() for parameter in one.parameters()) for one in (packed, plain)]
    assert count[0] == count[1], "the plain weights are gone"


def test_a_tied_head_stays_with_its_embedding():
    tied = model(LlamaForCausalLM, LlamaConfig, tie_word_embeddings=True)
    pack_linears(tied)
    assert not isinstance(tied.lm_head, PackedLinear) and tied.lm_head.weight is tied.model.embed_tokens.weight
    assert isinstance(tied.model.layers[0].mlp.up_proj, PackedLinear)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_what_onednn_has_no_products_for_stays(dtype):
    layer = nn.Linear(8, 8).to(dtype)
    pack_linears(layer)
    assert type(layer) is nn.Linear and layer.weight.dtype == dtype


def test_small_weights_stay(monkeypatch):
    monkeypatch.setattr(packed_linear, "LEAST", 100)
    layers = nn.Sequential(nn.Linear(9, 11), nn.Linear(10, 10))
    pack_linears(layers)
    assert [type(layer) for layer in layers] == [nn.Linear, PackedLinear]


def test_a_model_that_is_loaded_to_answer_is_packed():
    parts = ModelParts(language_model=LanguageModelConfig(path="tinyworld:llm"))
    ensemble = local_answerer("one", parts, None, ParallelContext(device=torch.device("cpu"))).loaded.ensemble
    layers = ensemble.base.model.language_model.causal_lm.model.layers
    assert isinstance(layers[0].self_attn.q_proj, PackedLinear)
