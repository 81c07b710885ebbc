"""Speculative decoding is plain decoding: token for token by noise, in distribution by rejection."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.engine import DecodingEngine, GenerationRequest
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.speculation import DraftLengthController, tokens_a_round
from mmscale.decoding.stop_criteria import StopCriteria
from tests.conftest import random_merged
from tests.decoding.test_generate import END, alone, perturbed, prompts, proxy, run

HERE = torch.device("cpu")
MODELS = [perturbed(seed) for seed in (1, 2, 3)]
PLAIN: dict[object, list[list[int]]] = {}
"""Answers of plain decoding, by what was asked."""


def near(seed: int, share: float):
    """A model that mostly agrees with model `seed`."""
    model = perturbed(seed)
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += share * torch.randn_like(parameter)
    return model


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tokens=st.sampled_from([2, 3, 5, 8]),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    own_prompt=st.booleans(),
    drafter=st.booleans(),
    batch=st.sampled_from([1, 2, 6]),
    sampling=st.sampled_from(
        [{}, {"temperature": 1.2}, {"temperature": 0.8, "top_p": 0.8}, {"repetition_penalty": 1.4}]
    ),
    seed=st.integers(0, 2),
)
def test_the_answer_for_a_seed_is_that_of_plain_decoding(tokens, alpha, own_prompt, drafter, batch, sampling, seed):
    asked = prompts(False)
    reads = (
        [
            TokenizedExample(
                prompt_ids=(9, 8, *p.prompt_ids), target_ids=(), encoder_ids=(), language="sw", origin=p.origin
            )
            for p in asked
        ]
        if own_prompt
        else asked
    )
    versions = [asked, reads, asked]
    config = GenerationConfig(max_new_tokens=14, batch_size=batch, seed=seed, **sampling)
    key = (alpha, own_prompt, seed, *sampling.items())
    if key not in PLAIN:
        PLAIN[key] = run(proxy(MODELS, alpha), versions, config)
    ensemble = proxy(MODELS, alpha, near(1, 0.02) if drafter else None)
    draft_length = DraftLengthController(HERE, tokens)
    assert run(ensemble, [*versions, *([asked] if drafter else [])], config, draft_length=draft_length) == PLAIN[key]
    assert draft_length.looked_at > 0


@pytest.mark.parametrize("encoder", [None, "t5"])
def test_accepted_drafts_save_rounds_and_change_nothing(encoder):
    """A model that drafts for itself: every draft is right, and ends of text fall inside drafts."""
    model, asked = random_merged("llama", encoder), prompts(encoder is not None)
    config = GenerationConfig(max_new_tokens=20, temperature=1.3, batch_size=3, seed=4)
    plain, draft_length = run(alone(model), [asked], config), DraftLengthController(HERE, 5)
    ensemble = Ensemble(ModelStepper(model), drafter=ModelStepper(model))
    assert run(ensemble, [asked, asked], config, draft_length=draft_length) == plain
    assert {len(ids) for ids in plain} - {20} and any(len(ids) % 5 for ids in plain)
    assert draft_length.report()["acceptance"] == 1 and draft_length.report()["tokens_per_round"] > 2.5


def test_a_merged_model_may_steer_and_draft():
    """Three models, three prompt lengths: the expert reads encoder states in front of the question."""
    asked, merged = prompts(False), prompts(True)
    expert = random_merged("llama", "t5")
    models = [MODELS[0], expert, MODELS[2]]
    config = GenerationConfig(max_new_tokens=12, batch_size=4)
    plain = run(proxy(models, 1.0), [asked, merged, asked], config)
    assert run(proxy(models, 1.0), [asked, merged, asked], config, draft_length=DraftLengthController(HERE, 4)) == plain
    assert plain != run(proxy(MODELS, 1.0), [asked, asked, asked], config)


def test_rejection_keeps_the_distribution():
    """The first three tokens of 3000 sequences, by rejection and by noise: one distribution."""
    base = perturbed(1)
    count, asked = 3000, prompts(False, 1)[0]
    config = GenerationConfig(max_new_tokens=3, temperature=1.0, top_k=5, seed=5)
    end = StopCriteria(frozenset(), (), str)
    found, acceptance = {}, {}
    for rejection in (True, False):
        ensemble = Ensemble(ModelStepper(base), drafter=ModelStepper(near(1, 0.005)))
        engine = DecodingEngine(
            ensemble, count, asked.merged_length + 3, DraftLengthController(HERE, 3), rejection=rejection
        )
        for number in range(count):
            engine.add(GenerationRequest(number, (asked, asked), config, end))
        done = []
        while engine.busy:
            done += [one for one in engine.step() if one.finished]
        found[rejection] = [tuple(one.token_ids) for one in done]
        acceptance[rejection] = engine.draft_length.report()["acceptance"]
    assert 0.3 < acceptance[False] < acceptance[True] < 0.95
    assert found[True] != found[False], "both ways draw by themselves"
    for place in range(3):
        counts = [
            torch.bincount(torch.tensor([ids[place] for ids in found[way]]), minlength=64) for way in (True, False)
        ]
        seen = (counts[0] + counts[1]) > 10
        table = torch.stack(counts)[:, seen].numpy()
        assert table.shape[1] > 2 and stats.chi2_contingency(table).pvalue > 1e-3


def test_the_pace_follows_acceptance_and_cost():
    def paced(acceptance: float, draft: float, verify: float) -> int:
        draft_length = DraftLengthController(HERE)
        draft_length.drafting.add(draft)
        for tokens in (1, 4, 16):
            draft_length.verifying.setdefault(tokens, type(draft_length.drafting)()).add(verify)
        draft_length.accepting.value, draft_length.rounds = acceptance, 1
        return draft_length.choose()

    assert paced(0.9, 1.0, 10.0) >= 6 and paced(0.99, 0.1, 10.0) == 16
    assert paced(0.1, 1.0, 1.0) == 1, "where speculation would lose, decoding is plain"
    assert paced(0.6, 1.0, 10.0) < paced(0.9, 1.0, 10.0)
    assert tokens_a_round(0.5, 3) == pytest.approx(1 + 0.5 + 0.25) and tokens_a_round(1.0, 4) == 4


def test_an_adaptive_pace_changes_no_token():
    asked = prompts(False)
    config = GenerationConfig(max_new_tokens=20, temperature=1.1, batch_size=3)
    draft_length = DraftLengthController(HERE)
    found = run(proxy(MODELS, 1.0), [asked] * 3, config, draft_length=draft_length)
    assert found == run(proxy(MODELS, 1.0), [asked] * 3, config)
    assert draft_length.drafting.seen and draft_length.verifying


def test_a_dropped_request_frees_its_slot():
    model, asked = random_merged(), prompts(False)
    engine = DecodingEngine(alone(model), 2, 64)
    config = GenerationConfig(max_new_tokens=30)
    requests = [GenerationRequest(i, (p,), config, END.with_texts(())) for i, p in enumerate(asked[:4])]
    for request in requests:
        engine.add(request)
    engine.step()
    running = [one.request for one in engine.running]
    engine.drop(running[0])
    engine.drop(requests[3])
    finished = set()
    while engine.busy:
        finished |= {one.request.number for one in engine.step() if one.finished}
    assert finished == {r.number for r in requests[:3]} - {running[0].number}
    expected = {g.prompt: g.token_ids for g in PromptDecoder(alone(model), END, 256).stream([asked], config)}
    assert len(expected) == len(asked)
