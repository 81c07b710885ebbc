"""Planned bytes against hand-worked numbers, and against what a real training step allocates."""

from __future__ import annotations

import json

import pytest
import torch
from mmscale_kernels import softmax_rows
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

from benchmarks.memory import peak_bytes
from mmscale.config.model import EncoderConfig
from mmscale.config.parallel import ZeroConfig
from mmscale.config.training import StageConfig
from mmscale.data.packing import IGNORED, EncoderRow, PackedRow
from mmscale.data.segments import SpecialTokens
from mmscale.models.assembly import make_trainable
from mmscale.models.attention import PACKED_SDPA
from mmscale.models.encoders import load_encoder
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.parallel.context import ParallelContext
from mmscale.planning.memory import Trained, state_bytes
from mmscale.planning.parallel_plan import ParallelPlan, local_parameters
from mmscale.planning.tracing import RowWork, encoder_bytes, trace
from mmscale.training.engines.local import LocalEngine
from mmscale.training.objective import CausalObjective
from tests.distributed import ranks
from tests.models.test_loading import ENCODERS as CHECKPOINTS

TOKENS, VOCABULARY = 1024, 3000
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 5,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": VOCABULARY,
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("config", [LlamaConfig(**SHAPE), Qwen2Config(**SHAPE, tie_word_embeddings=True)])
def test_a_real_step_peaks_where_it_was_planned(monkeypatch, config, trained, checkpointing):
    torch.manual_seed(0)
    causal_lm = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_SDPA)
    model = LanguageModel(causal_lm, None, SpecialTokens(1, 2))
    model.requires_grad_(False)
    make_trainable(model, checkpointing, frozen=not trained)
    labels = torch.randint(VOCABULARY, (TOKENS,))
    labels[::2] = IGNORED
    ids, places = torch.randint(VOCABULARY, (TOKENS,)), torch.arange(TOKENS)
    row = PackedRow(token_ids=ids, token_rows=places, position_ids=places, labels=labels, lengths=[TOKENS])
    objective = CausalObjective(MergedModel(model))
    if trained:
        engine = LocalEngine(objective, StageConfig(steps=1), ParallelContext(device=torch.device("cpu")))
        engine.train_step([row], 1e-4)  # the optimizer's state is made here
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        engine.optimizer.zero_grad = lambda set_to_none=True: None  # gradients stay, as between rows of a step

        def step() -> None:
            engine.train_step([row], 1e-4)
    else:
        embed = model.embed
        model.embed = lambda ids: embed(ids).requires_grad_()  # type: ignore[method-assign]

        def step() -> None:
            objective.loss_sum(row).backward()

    planned = trace(
        config,
        RowWork(
            tokens=TOKENS,
            targets=TOKENS // 2,
            dtype=torch.float32,
            trained=trained,
            checkpointing=checkpointing,
            flash=False,
        ),
    )
    softmax = (
        2 * 4 * softmax_rows._BLOCK_ELEMENTS["cpu"]
    )  # of the CPU's own; a GPU has a kernel instead, and so the plan
    assert 0.99 * planned.peak <= peak_bytes(step) <= 1.01 * planned.peak + softmax
    monkeypatch.setitem(softmax_rows._BLOCK_ELEMENTS, "cpu", 1 << 12)
    assert peak_bytes(step) == pytest.approx(planned.peak, rel=0.01), "and without it"


def test_a_real_rank_of_a_tensor_group_peaks_where_it_was_planned(tmp_path):
    """With all tokens between the layers, and with its own; each without and with checkpointing."""
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    said = ranks.output(2, ["tests/planning/peak_worker.py", str(tmp_path)])
    found, planned = json.loads(said.strip().splitlines()[-1])
    assert found == pytest.approx(planned, rel=0.05)
    assert planned[3] < planned[1] < planned[2] < planned[0]


def test_checkpointing_keeps_one_input_a_layer():
    config = LlamaConfig(**SHAPE)
    kept = trace(
        config, RowWork(tokens=TOKENS, targets=1, dtype=torch.bfloat16, trained=True, checkpointing=True, flash=True)
    ).forward
    layer = TOKENS * 256 * 2
    # five layers' inputs and the final norm's; cosines and sines. One row is read
    assert 6 * layer <= kept < 6.5 * layer


def hand(**changes: object) -> Trained:
    """An LLM of two parameters of 1000 and 30 elements on a rank, and a mapping of 70."""
    values = {"trains_llm": True, "llm_dtype": "bfloat16", "encoder_dtype": "bfloat16", "autocast": True, **changes}
    values = {"trains_connector": not values["trains_llm"], **values}
    return Trained(llm=(1000, 30), encoder=(500,), connector=(70,), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained", "parallel_plan", "expected"),
    [
        # replicated float32 under autocast: weight, gradient, two moments of 4 B; a bfloat16 copy
        (
            hand(llm_dtype="float32"),
            ParallelPlan(4, 1, 0),
            {"llm_weights": 4120, "gradients": 4120, "optimizer": 8240, "autocast_weights": 2060},
        ),
        # a frozen bfloat16 LLM costs its weights; the mapping is float32
        (
            hand(trains_llm=False),
            ParallelPlan(4, 1, 0),
            {"llm_weights": 2060, "connector_weights": 280, "optimizer": 560},
        ),
        # ZeRO-1: (1030 padded to 1032) / 4 = 258 elements of 12 B; all gradients in float32
        (hand(), ParallelPlan(4, 1, 1), {"llm_weights": 2060, "gradients": 4120, "optimizer": 258 * 12}),
        (hand(), ParallelPlan(4, 1, 2), {"llm_weights": 2060, "gradients": 258 * 4, "optimizer": 258 * 12}),
        # ZeRO-3: 250 + 8 elements, each parameter cut by itself; both lie under the threshold and are kept whole too
        (hand(), ParallelPlan(4, 1, 3), {"llm_weights": 2 * (258 + 1030), "gradients": 258 * 4, "optimizer": 258 * 12}),
    ],
)
def test_states_by_hand(trained, parallel_plan, expected):
    found = state_bytes(trained, parallel_plan, ZeroConfig(stage=parallel_plan.stage))
    assert {key: found[key] for key in expected} == expected
    assert found["encoder_weights"] == 1000


@pytest.mark.parametrize(
    ("trained", "zero", "expected"),
    [
        # beside the mapping: float32 weights, gradients and moments of 500 + 70 elements; bfloat16 copies under autocast
        (
            {"encoder_dtype": "float32"},
            0,
            {"encoder_weights": 2000, "gradients": 2280, "optimizer": 4560, "autocast_weights": 1140},
        ),
        # its table alone, (90 + 70) / 4 = 40 elements of 12 B, the rest frozen in the computing dtype
        ({"trained_encoder": (90,)}, 2, {"encoder_weights": 1000, "gradients": 160, "optimizer": 480}),
        # ZeRO-3: 125 of its elements and 18 of the mapping's (70 / 4, rounded up)
        ({}, 3, {"encoder_weights": 2 * (125 + 500), "gradients": 143 * 4, "optimizer": 143 * 12}),
    ],
)
def test_states_of_a_trained_encoder_by_hand(trained, zero, expected):
    values = hand(trains_llm=False, **{"trained_encoder": (500,), **trained})
    planned = state_bytes(values, ParallelPlan(4, 1, zero), ZeroConfig(stage=zero))
    assert {key: planned[key] for key in expected} == expected


@pytest.mark.parametrize("name", ["t5", "m2m100", "xlm_roberta", "decoder"])
def test_what_a_trained_encoder_keeps_is_what_autograd_saves(tmp_path, tinyworld_tokenizers, name):
    CHECKPOINTS[name]().save_pretrained(tmp_path)
    tinyworld_tokenizers[1].save_pretrained(tmp_path)
    config, lengths = EncoderConfig(path=str(tmp_path)), (32,) * 16
    planned = encoder_bytes(config, lengths, False, False)
    encoder = load_encoder(config, torch.device("cpu"))
    encoder.requires_grad_(True)
    kept: dict[int, int] = {}
    parameters = {parameter.untyped_storage().data_ptr() for parameter in encoder.parameters()}

    def note(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        states = encoder.states(EncoderRow(torch.arange(16 * 32) % 60 + 4, list(lengths), ["sw"] * 16))
    assert states.requires_grad
    assert 0.7 * sum(kept.values()) <= planned <= 1.3 * sum(kept.values()) + 4 * states.numel()
    assert encoder_bytes(config, lengths, False, True) < planned / 2, "computed again"


def test_a_rank_of_a_tensor_group_holds_its_part():
    """LLaMA by hand: per layer q 64x64/2, k and v 64x32/2, o 64x64/2, three times 64x96/2, two norms of 64."""
    values = {**SHAPE, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 101}
    sizes = local_parameters(LlamaConfig(**values), 2)
    layer = 64 * 64 // 2 + 2 * (64 * 32 // 2) + 64 * 64 // 2 + 3 * (64 * 96 // 2) + 2 * 64
    assert sum(sizes) == 2 * layer + 2 * 51 * 64 + 64, "a padded row of each table, the last norm whole"
