"""RMSNorm and SwiGLU beside transformers' own: the same numbers, the gradients of float64, and less kept between."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from mmscale_kernels import rotate
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, GemmaConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from mmscale.models import memory_efficient
from mmscale.models.memory_efficient import RmsNorm, SwiGlu, make_memory_efficient

SHAPE = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 50,
}
FAMILIES = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def pair(config) -> tuple[nn.Module, nn.Module]:
    """A model as transformers makes it, norms away from one, and the same with ours in it."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    ours = copy.deepcopy(theirs)
    make_memory_efficient(ours)
    return theirs, ours


def kinds(model: nn.Module) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_computes_what_transformers_does(family, dtype):
    theirs, ours = pair(FAMILIES[family](**SHAPE))
    norms = sum("norm" in name for name, _ in theirs.named_modules() if not name.endswith("rotary_emb"))
    assert kinds(ours).count("RmsNorm") == norms and kinds(ours).count("SwiGlu") == 2
    assert list(dict(ours.named_parameters())) == list(dict(theirs.named_parameters()))
    ids = torch.randint(50, (3, 17))
    found = []
    for model in (theirs.to(dtype), ours.to(dtype)):
        logits = model(input_ids=ids).logits
        logits.float().logsumexp(-1).sum().backward()
        with torch.no_grad():
            assert torch.equal(model(input_ids=ids).logits, logits), "without gradients"
        found.append((logits, {name: p.grad for name, p in model.named_parameters()}))
    assert torch.equal(found[0][0], found[1][0])
    near = 1e-5 if dtype == torch.float32 else 3e-2
    for name, gradient in found[0][1].items():
        far = (found[1][1][name] - gradient).abs().max() / gradient.abs().max()
        assert far < near, name


def test_what_is_no_swiglu_or_no_norm_like_llamas_stays_as_it_is():
    _, gemma = pair(GemmaConfig(**SHAPE))  # 1 + weight, and gelu
    assert "GemmaRMSNorm" in kinds(gemma) and not {"RmsNorm", "SwiGlu"} & set(kinds(gemma))
    _, relu = pair(LlamaConfig(**SHAPE, hidden_act="relu"))
    assert "LlamaMLP" in kinds(relu) and "RmsNorm" in kinds(relu)


@pytest.mark.parametrize("family", FAMILIES)
def test_where_triton_runs_attention_rotates_by_our_op_and_other_models_by_transformers(monkeypatch, family):
    """In this process: neither a class of transformers nor its module is changed."""
    theirs, ours = pair(FAMILIES[family](**SHAPE))
    seen = []
    monkeypatch.setattr(memory_efficient, "_in_one_kernel", lambda device: True)
    monkeypatch.setattr(memory_efficient, "rotate", lambda *parts: seen.append(parts[0].shape) or rotate(*parts))
    ids = torch.randint(50, (3, 17))
    right = theirs(input_ids=ids).logits
    assert not seen
    assert torch.equal(ours(input_ids=ids).logits, right) and seen == [(3, 4, 17, 8)] * 2
    assert kinds(ours).count(kinds(theirs)[4]) == kinds(theirs).count(kinds(theirs)[4]) == 2, "by the same name"
    again = copy.deepcopy(ours)
    make_memory_efficient(again)
    assert [type(module) for module in again.modules()] == [type(module) for module in ours.modules()]
    assert torch.equal(again(input_ids=ids).logits, right) and len(seen) == 4
    monkeypatch.undo()
    monkeypatch.setenv("MMSCALE_KERNELS", "triton")  # on a CPU it is transformers', whatever was chosen
    assert torch.equal(ours(input_ids=ids).logits, right) and len(seen) == 4


def norm_of(width: int, dtype: torch.dtype) -> RmsNorm:
    _, model = pair(LlamaConfig(**{**SHAPE, "hidden_size": width}))
    found = model.model.norm.to(dtype)
    assert isinstance(found, RmsNorm)
    return found


def right(norm: RmsNorm, rows: torch.Tensor) -> torch.Tensor:
    wide = rows.double()
    return norm.weight.double() * wide / (wide.square().mean(-1, keepdim=True) + norm.variance_epsilon).sqrt()


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 3e-6), (torch.bfloat16, 2e-2), (torch.float64, 3e-6)])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("shape", [(1, 33, 24), (2, 5, 3, 24), (1, 0, 24)])
def test_gradients_of_a_norm_are_those_of_its_formula(shape, trained, dtype, near):
    norm = norm_of(24, dtype).requires_grad_(trained)
    rows = (3 * torch.randn(shape)).to(dtype).requires_grad_()
    weights = torch.randn(shape)
    wanted = [rows, *([norm.weight] if trained else [])]
    found = torch.autograd.grad((norm(rows) * weights).sum(), wanted)
    expected = torch.autograd.grad((right(norm, rows) * weights).sum(), wanted)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype and one.shape == other.shape
        assert torch.allclose(one.double(), other.double(), rtol=near, atol=near * 4)


def test_a_row_of_zeros_has_a_finite_gradient():
    norm = norm_of(24, torch.float32)
    rows = torch.zeros(1, 2, 24, requires_grad=True)
    norm(rows).sum().backward()
    assert torch.allclose(rows.grad, norm.weight / norm.variance_epsilon**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_norm_that_a_gpu_takes_is_the_same_function(dtype):
    norm, rows = norm_of(24, dtype), (3 * torch.randn(1, 40, 24)).to(dtype)
    fused = F.rms_norm(rows, norm.weight.shape, norm.weight, norm.variance_epsilon)
    assert torch.allclose(fused.float(), norm(rows).float(), rtol=1e-6 if dtype == torch.float32 else 2e-2, atol=1e-6)


def test_the_norm_that_a_gpu_takes_stays_in_16_bits_under_autocast():
    """torch.autocast itself is off where there is no GPU; its state is not."""
    was = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    with FakeTensorMode(), torch.device("cuda"):
        norm = RmsNorm()
        norm.weight = nn.Parameter(torch.empty(24, dtype=torch.bfloat16), requires_grad=False)
        norm.variance_epsilon = 1e-6
        rows = torch.empty(1, 40, 24, dtype=torch.bfloat16)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        torch.set_autocast_enabled("cuda", True)
        try:
            out = norm(rows)
        finally:
            torch.set_autocast_enabled("cuda", was[0])
            torch.set_autocast_dtype("cuda", was[1])
    assert out.dtype == torch.bfloat16


def kept(module: nn.Module, rows: torch.Tensor) -> int:
    """Bytes that the backward pass of a frozen module waits with, each memory once, weights aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    held: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(rows)
    assert out.requires_grad
    return sum(held.values())


def test_a_frozen_norm_keeps_its_input_and_a_number_a_row():
    theirs, ours = pair(LlamaConfig(**SHAPE))
    rows = torch.randn(1, 64, 24, dtype=torch.bfloat16, requires_grad=True)
    norms = [model.model.norm.to(torch.bfloat16).requires_grad_(False) for model in (theirs, ours)]
    assert kept(norms[1], rows) == 64 * (24 * 2 + 4)
    assert kept(norms[0], rows) >= 64 * (24 * 4 + 4), "transformers keeps a float32 copy"


def test_a_frozen_swiglu_keeps_gate_and_up():
    theirs, ours = pair(LlamaConfig(**SHAPE))
    rows = torch.randn(1, 64, 24, requires_grad=True)
    mlps = [model.model.layers[0].mlp.requires_grad_(False) for model in (theirs, ours)]
    assert isinstance(mlps[1], SwiGlu)
    assert [kept(mlp, rows) for mlp in mlps] == [64 * 40 * 4 * 3, 64 * 40 * 4 * 2]
