"""Frozen LLMs in 4 and 8 bits: what the layers compute, what they take, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from mmscale.cli.main import main
from mmscale.config.model import LanguageModelConfig
from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.models.assembly import assemble, read_parts
from mmscale.models.counting import empty_language_model
from mmscale.models.language_model import load_language_model
from mmscale.models.merge import MergedInputs, MergedModel
from mmscale.models.places import resolve_path
from mmscale.models.quantization import largest_layer, weight_bytes
from mmscale.parallel.context import ParallelContext
from mmscale.training.objective import CausalObjective
from tests.runs.test_run import command

bitsandbytes = pytest.importorskip("bitsandbytes", reason="extra `quantization` is not installed")
HERE = ParallelContext(device=torch.device("cpu"))
WIDE = torch.backends.cpu.get_cpu_capability() == "AVX512"
RIGHT = (
    not WIDE
    or torch._int_mm(torch.full((17, 64), 127, dtype=torch.int8), torch.full((64, 32), 127, dtype=torch.int8))[0, 0]
    == 64 * 127**2
)
EIGHT_BITS = pytest.mark.skipif(not RIGHT, reason="torch multiplies 8-bit numbers wrongly here, so int8 is refused")
QUANTIZATIONS = ["nf4", pytest.param("int8", marks=EIGHT_BITS)]
SINGLE, HALF = 2.0**-24, 2.0**-11
"""Units of rounding: float32 and float16."""
EXAMPLES = [
    TokenizedExample(prompt_ids=(9, 10, 11, 400), target_ids=(12, 13, 2), encoder_ids=(), language="en"),
    TokenizedExample(prompt_ids=(20,), target_ids=(21, 22, 23, 2), encoder_ids=(), language="en"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> str:
    """A tiny LLaMA whose rows are whole blocks."""
    folder = tmp_path_factory.mktemp("models") / "wide"
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokenizer = AutoTokenizer.from_pretrained(resolve_path("tinyworld:llm"))
    config = LlamaConfig(vocab_size=2048, num_key_value_heads=2, initializer_range=0.1, **sizes)
    config.bos_token_id, config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def load(path: str, quantization: str):
    return load_language_model(LanguageModelConfig(path=path, quantization=quantization), HERE)


def quantised_layers(lm) -> dict[str, nn.Module]:
    head = lm.causal_lm.get_output_embeddings()
    return {name: m for name, m in lm.causal_lm.named_modules() if isinstance(m, nn.Linear) and m is not head}


def dequantised(layer: nn.Module) -> torch.Tensor:
    """The weights that a layer holds, float64 [N, K]."""
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        state = layer.weight.quant_state
        codes = torch.stack([layer.weight.data >> 4, layer.weight.data & 15], -1).flatten().long()
        return (state.code.double()[codes].view(-1, state.blocksize) * scales(layer)[:, None]).view(state.shape)
    return layer.weight.data.double() * scales(layer)[:, None]


def scales(layer: nn.Module) -> torch.Tensor:
    """What blocks of 64 weights (nf4) or rows (int8) are multiplied by, float64."""
    if not isinstance(layer, bitsandbytes.nn.Linear4bit):
        held = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB  # the first call moves it
        return held.double() / 127
    state, outer = layer.weight.quant_state, layer.weight.quant_state.state2
    fine = (
        outer.code.double()[state.absmax.long()]
        * outer.absmax.double().repeat_interleave(outer.blocksize)[: len(state.absmax)]
    )
    return fine + state.offset.double()


def half_a_step(layer: nn.Module, given_NK: torch.Tensor) -> torch.Tensor:
    """How far a held weight can be from the given one (float64 [N, K]): half a step, and what the scale itself is off."""
    if not isinstance(layer, bitsandbytes.nn.Linear4bit):
        return scales(layer)[:, None] / 2 + HALF * given_NK.abs()  # int8: rounded to float16 before
    state, blocks = layer.weight.quant_state, given_NK.view(-1, 64)
    code, outer = state.code.double(), state.state2.code.double()
    largest = blocks.abs().amax(1)
    coarse = (
        outer.diff().max() * state.state2.absmax.double().repeat_interleave(256)[: len(largest)]
    )  # a whole one: near
    assert ((scales(layer) - largest).abs() <= coarse).all()  # the middle bitsandbytes' search takes either neighbour
    return ((code.diff().max() / 2 + SINGLE) * largest + coarse)[:, None].expand_as(blocks).reshape(given_NK.shape)


def product_error(layer: nn.Module, x_TK: torch.Tensor) -> torch.Tensor:
    """How far products of float32 rows with what a layer holds can be from exact ones (float64 [T, N]), in whatever order a
    processor adds: K terms of relative error u give at most K u (Higham 2002, section 3.1). int8 rounds the rows as
    well, to float16 and then to 127 steps of each row's largest value that is no outlier; outlying columns stay.
    """
    held, x = dequantised(layer).abs(), x_TK.double().abs()
    summed = (x.shape[-1] + 4) * SINGLE * x @ held.T
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        return summed
    outlying = x >= layer.state.threshold
    step = x.where(~outlying, 0).amax(-1, keepdim=True) / 127
    rounded = (step / 2 * (1 + 2 * HALF) + 2 * HALF * x) * ~outlying.any(0)
    return summed + rounded @ held.T


def watched(model: MergedModel, row) -> tuple[torch.Tensor, torch.Tensor, dict[str, tuple[torch.Tensor, ...]]]:
    """Loss, gradient of the rows that enter the LLM (what a mapping learns from), and of each quantised layer input [T, K],
    output [T, N] and their gradients."""
    seen: dict[str, tuple[torch.Tensor, ...]] = {}

    def own(_, given):
        return (given[0].view_as(given[0]),)  # q, k and v read one input: its gradient is the sum of theirs

    def note(name: str):
        def hook(_, given, out):
            given[0].retain_grad()
            out.retain_grad()
            seen[name] = (given[0], out)

        return hook

    layers = quantised_layers(model.language_model).items()
    held = [layer.register_forward_pre_hook(own) for _, layer in layers]
    held += [layer.register_forward_hook(note(name), prepend=True) for name, layer in layers]
    model.requires_grad_(False)
    entering = model.merged_inputs(row).rows.detach().requires_grad_()
    model.merged_inputs = lambda _: MergedInputs(entering)
    loss = CausalObjective(model).loss_sum(row)
    loss.backward()
    for one in held:
        one.remove()
    del model.merged_inputs
    return (
        loss.detach(),
        entering.grad,
        {
            name: tuple(one.reshape(-1, one.shape[-1]) for one in (x.detach(), y.detach(), x.grad, y.grad))
            for name, (x, y) in seen.items()
        },
    )


def exact(whole: MergedModel, small: MergedModel, row, seen: dict[str, tuple[torch.Tensor, ...]]):
    """Loss and gradient in float64 of what the small model holds, its layers' outputs off by what was measured of them."""
    whole = whole.double()
    for name, layer in quantised_layers(small.language_model).items():
        twin = whole.language_model.causal_lm.get_submodule(name)
        twin.weight.data.copy_(dequantised(layer))
        if name in seen:
            x, y, *_ = seen[name]
            off = y.double() - x.double() @ twin.weight.data.T
            twin.register_forward_hook(lambda _, given, out, off=off: out + off.view_as(out), prepend=True)
    return watched(whole, row)[:2]


def rounding(lm) -> float:
    """What float32 can add to loss and gradient, relatively: each product in turn, its terms forwards and backwards."""
    return 2 * (7 * lm.config.num_hidden_layers + 1) * lm.config.intermediate_size * SINGLE


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_weights_are_the_nearest_that_a_layer_can_hold(path, quantization):
    small, whole = load(path, quantization), load(path, "none")
    layers = quantised_layers(small)
    assert len(layers) == 7 * small.config.num_hidden_layers
    for name, layer in layers.items():
        given = whole.causal_lm.get_submodule(name).weight.data.double()
        off = (dequantised(layer) - given).abs()
        assert (off <= half_a_step(layer, given)).all() and off.any(), name


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_a_quantised_model_computes_with_the_values_it_holds(path, quantization):
    """Layer by layer within what rounding can do, answering or training; and from layer to layer as float64 does."""
    small, whole = load(path, quantization), load(path, "none")
    row = pack(EXAMPLES, small.specials)
    loss, gradient, seen = watched(MergedModel(small), row)
    for name, layer in quantised_layers(small).items():
        held, (x, y, dx, dy) = dequantised(layer), seen[name]
        right, allowed = x.double() @ held.T, product_error(layer, x)
        assert ((y.double() - right).abs() <= allowed).all(), name
        allowed_back = (len(held) + 4) * SINGLE * dy.double().abs() @ held.abs()
        assert ((dx.double() - dy.double() @ held).abs() <= allowed_back).all(), name
    for one, other in zip((loss, gradient), exact(MergedModel(whole), MergedModel(small), row, seen), strict=True):
        assert (one - other).norm() <= rounding(small) * other.norm()
    for name, layer in quantised_layers(small).items():
        held, (x, *_) = dequantised(layer), seen[name]
        with torch.inference_mode():
            off = (layer.forward(x).double() - x.double() @ held.T).abs()
        assert (off <= product_error(layer, x)).all(), name


@EIGHT_BITS
@pytest.mark.parametrize("fault", ["a scale", "the order of rows", "a block", "the scale of what enters"])
def test_bounds_of_eight_bits_find_faults(path, fault):
    layer = quantised_layers(load(path, "int8"))["model.layers.0.mlp.gate_proj"]
    held = dequantised(layer)
    x = torch.randn(12, held.shape[1])
    allowed = product_error(layer, x)
    if fault == "a scale":
        layer.weight.SCB[3] *= 1.1
    elif fault == "the order of rows":
        layer.weight.data[:2] = layer.weight.data[:2].flip(0)
    elif fault == "a block":
        layer.weight.data[:16, :16] = layer.weight.data[:16, :16].T.clone()
    with torch.inference_mode():
        found = layer(x * 1.1 if "enters" in fault else x).double()
    assert ((found - x.double() @ held.T).abs() > allowed).any()


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
def test_weights_take_what_is_planned(path, quantization):
    lm = load(path, quantization)
    held = sum(p.nbytes for p in lm.causal_lm.parameters())
    for module in lm.causal_lm.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            state = module.weight.quant_state
            held += state.absmax.nbytes + state.state2.absmax.nbytes
        elif isinstance(module, bitsandbytes.nn.Linear8bitLt):
            held += module.weight.SCB.nbytes
    empty = empty_language_model(LanguageModelConfig(path=path))
    assert weight_bytes(empty, quantization, 4) == pytest.approx(held, rel=1e-3)
    assert largest_layer(empty) == lm.config.hidden_size * lm.config.intermediate_size


@EIGHT_BITS
def test_a_mapping_learns_in_front_of_eight_bits(tmp_path, monkeypatch):
    """Its first loss is that of the values which the LLM holds, and six steps lower the exact loss of the rows that it saw."""
    calls, loss_sum = [], CausalObjective.loss_sum

    def noted(self, row):
        before = {} if calls else {name: value.clone() for name, value in self.model.connector.state_dict().items()}
        calls.append((self.model, row, before, loss_sum(self, row)))
        return calls[-1][-1]

    monkeypatch.setattr(CausalObjective, "loss_sum", noted)
    arguments = [
        "train",
        "configs/quickstart.yaml",
        "mindmerger.mapping",
        *command(tmp_path)[2:],
        "methods=[mindmerger]",
    ]
    fewer = ["recipes.mindmerger.mapping.steps=6", "recipes.mindmerger.mapping.packing.global_batch_size=8"]
    assert main([*arguments, *fewer, "language_model.quantization=int8"]) == 0
    monkeypatch.undo()
    (small, row, untrained, first), trained = calls[0], calls[0][0].connector.state_dict()
    parts = read_parts(str(tmp_path / "stages/mindmerger.mapping/model"))
    assert parts.language_model.quantization == "int8", "the model is used as it was trained"
    plain = parts.language_model.model_copy(update={"quantization": "none"})
    whole, _ = assemble(replace(parts, language_model=plain), HERE)
    whole.connector.load_state_dict(trained)
    after, _ = exact(whole, small, row, {})
    small.connector.load_state_dict(untrained)
    whole.connector.load_state_dict(untrained)
    found, _, seen = watched(small, row)
    before, _ = exact(whole, small, row, seen)
    assert found.item() == pytest.approx(before.item(), rel=rounding(small.language_model))
    assert first.item() == pytest.approx(before.item(), rel=rounding(small.language_model))
    assert after < before


def training(folder, stage: str) -> list[str]:
    settings = ["methods=[mindmerger]", "language_model.quantization=nf4"]
    return ["train", "configs/quickstart.yaml", stage, *command(folder)[2:], *settings]


@pytest.mark.parametrize(
    ("stage", "setting", "said"),
    [
        ("question_alignment.translation", "seed=1", "question_alignment.translation trains the language model, and"),
        ("mindmerger.mapping", "parallel.zero.stage=3", "keeps the language model whole on every rank: set"),
        ("mindmerger.mapping", "parallel.tensor_parallel_size=2", "keeps the language model whole on every rank: set"),
        ("mindmerger.mapping", "language_model.quantization=int4", "language_model.quantization"),
    ],
)
def test_what_cannot_be_quantised_is_refused_by_name(tmp_path, capsys, stage, setting, said):
    assert main([*training(tmp_path, stage), setting]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "stages").exists()


def test_four_bits_that_would_be_read_wrongly_are_refused(capsys, tmp_path):
    assert main(training(tmp_path, "mindmerger.mapping")) == 2
    assert (
        "those of model.layers.0.mlp.down_proj have 352: set language_model.quantization=int8"
        in capsys.readouterr().err
    )


@pytest.mark.skipif(not WIDE, reason="bitsandbytes takes torch's product only where there is AVX-512")
def test_int8_is_refused_where_torch_multiplies_8_bit_numbers_wrongly():
    """oneDNN without VNNI adds pairs of products in 16 bits; torch's other products are right, and then bitsandbytes takes them."""
    script = (
        "import torch; from mmscale.models import quantization as q; from mmscale.config.model import LanguageModelConfig;"
        "q.require_right_products(LanguageModelConfig(path='x', quantization='int8'), torch.device('cpu'))"
    )

    def said(**limits: str) -> str:
        environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", **limits}
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment).stderr

    assert "UserError: language_model.quantization=int8: torch multiplies 8-bit numbers wrongly on this" in said()
    assert not said(ATEN_CPU_CAPABILITY="avx2"), "the remedy that the sentence names"


def test_no_code_is_fetched_with_the_library(tmp_path):
    """A package `kernels` that is installed stays out of it, and can be imported afterwards."""
    (tmp_path / "kernels.py").write_text("def get_kernel(*_, **__): raise SystemExit('code from the hub')")
    script = (
        "import torch; from mmscale.models import quantization as q; from mmscale.config.model import LanguageModelConfig;"
        "q.arguments(LanguageModelConfig(path='x', quantization='nf4'), torch.float32, torch.device('cpu'));"
        "import sys, kernels; print('bitsandbytes' in sys.modules, kernels.get_kernel is not None)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stdout == "True True\n", done.stderr


def test_without_bitsandbytes_the_remedy_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(training(tmp_path, "mindmerger.mapping")) == 2
    assert "needs bitsandbytes: pip install 'mmscale[quantization]'" in capsys.readouterr().err
