"""Recorded decoding steps are the steps, and speculative decoding is plain decoding: the same tokens on a GPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.decoding import graphs
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.speculation import DraftLengthController
from tests.conftest import random_merged
from tests.decoding.tape import Tape
from tests.decoding.test_generate import END, SAMPLED, perturbed, prompts
from tests.kernels.cases import far

GREEDY = GenerationConfig(max_new_tokens=24, batch_size=3)


@pytest.fixture(autouse=True)
def short_recordings(monkeypatch):
    """So that a sequence outgrows several."""
    monkeypatch.setattr(graphs, "HELD_STEP", 8)
    monkeypatch.setattr(graphs, "RECORD_AT", 2)


def recorder(device: torch.device):
    """A GPU's own, as nothing else would choose it; a tape where these tests are rehearsed."""
    return Tape() if device.type == "cpu" else graphs.recorder(device)


def ensemble(models, recorded: bool) -> Ensemble:
    devices = [model.language_model.device for model in models]
    steppers = [
        ModelStepper(m, recorder=recorder(d) if recorded else None) for m, d in zip(models, devices, strict=True)
    ]
    return Ensemble(steppers[0], tuple(steppers[1:]) or None)


def answers(decoder: Ensemble, asked, config, tokens: int | None = 1):
    """Token ids of every prompt, and what the rounds gave."""
    pace = DraftLengthController(decoder.device, tokens)
    given = PromptDecoder(decoder, END, 256, pace).stream(asked, config)
    return [one.token_ids for one in sorted(given, key=lambda one: one.prompt)], pace.report_json()


def compare(device, record_property, models, asked, config, tokens: int | None = 1):
    models = [model.float() for model in models]
    here, _ = answers(ensemble(models, False), asked, config)
    models = [model.to(device) for model in models]
    plain, _ = answers(ensemble(models, False), asked, config)
    unrecorded, report = answers(ensemble(models, False), asked, config, tokens)
    replaying = ensemble(models, True)
    recorded, again = (answers(replaying, asked, config, tokens)[0] for _ in range(2))
    record_property("recordings", replaying.recorded)
    record_property("rounds", report)
    alike = sum(one == other for one, other in zip(here, plain, strict=True))
    record_property("answers of the CPU", f"{alike} of {len(here)}")
    assert unrecorded == plain, "speculation changes an answer"
    assert recorded == plain and again == plain, "recorded steps answer otherwise"
    # how often an adaptive pace draws the same shape twice depends on the clock
    assert tokens is None or replaying.recorded > 0
    assert alike >= len(here) - 1, "a near-tie may fall otherwise on another device, once"


@pytest.mark.parametrize("config", [GREEDY, SAMPLED], ids=["greedy", "top-p"])
@pytest.mark.parametrize("encoder", [None, "t5"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
def test_recorded_steps_are_the_steps(device, record_property, capfd, family, encoder, config):
    compare(device, record_property, [random_merged(family, encoder)], [prompts(encoder is not None, 9)], config)
    assert "unrecorded" not in capfd.readouterr().err


@pytest.mark.parametrize("tokens", [1, 3, None])
def test_speculative_decoding_is_plain_decoding(device, record_property, capfd, tokens):
    models = [perturbed(seed) for seed in (1, 2, 3)]
    compare(device, record_property, models, [prompts(False, 8)] * 3, SAMPLED, tokens)
    assert "unrecorded" not in capfd.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@torch.inference_mode()
def test_logits_of_recorded_steps_are_those_of_steps(device, near, family, dtype):
    """Four sequences, the same tokens either way, whatever would have been chosen."""
    model = random_merged(family).to(device, dtype)
    asked = [replace(one, target_ids=()) for one in prompts(False, 4)]
    generator, distances = torch.Generator().manual_seed(4), []
    tokens = torch.randint(7, 64, (20, 4, 1), generator=generator).to(device)
    plain, recorded = ModelStepper(model), ModelStepper(model, recorder=recorder(device))
    for stepper in (plain, recorded):
        stepper.reserve(4, 64)
    distances.append(far(recorded.admit(asked), plain.admit(asked).double()))
    for step in tokens:
        distances.append(far(recorded.extend(step), plain.extend(step).double()))
    assert recorded.recorded > 0
    near(max(distances), 1e-4 if dtype == torch.float32 else 2e-2)  # keys in other portions: as in test_attention.py
