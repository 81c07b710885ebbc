"""Decoding with caches and leaving rows = growing the whole sequence again each step; the same alone and in company."""

from __future__ import annotations

import pytest
import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.packing import pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.decoding.generate import Ending, generate
from mmscale.decoding.sampling import choose_tokens, warp
from mmscale.decoding.steppers import ModelStepper, ProxyStepper
from mmscale.errors import UserError
from tests.conftest import VOCABULARY, random_merged

SPECIALS = SpecialTokens(1, 2)
END = Ending(frozenset({2, 3, 4, 5, 6}), (), lambda ids: " ".join(map(str, ids)))
"""Five stop ids, so that random models stop at different lengths."""
SAMPLED = GenerationConfig(max_new_tokens=20, temperature=1.3, top_p=0.9, batch_size=4, seed=3)


def prompts(merged: bool, count: int = 6) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(2)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(7, VOCABULARY, (n,), generator=generator).tolist())

    return [
        TokenizedExample(ids(1 + 5 * i % 13), (), ids(2 + 3 * i % 7) if merged else (), "sw", f"p{i}")
        for i in range(count)
    ]


def run(stepper, versions, config):
    found = [g for batch in generate(stepper, versions, config, END, 256) for g in batch]
    return [g.token_ids for g in sorted(found, key=lambda g: g.prompt)]


def naive(logits_of, prompt_number: int, config) -> list[int]:
    """The definition: run everything again for every token."""
    ids: list[int] = []
    for position in range(config.max_new_tokens):
        token = int(choose_tokens(logits_of(ids)[None], config, [prompt_number], position)[0])
        ids.append(token)
        if token in END.stop_ids:
            break
    return ids


def last_logits(model, prompt, ids):
    grown = TokenizedExample((*prompt.prompt_ids, *ids), (), prompt.encoder_ids, prompt.language)
    return model.language_model.logits(model.hidden(pack([grown], SPECIALS))[-1:])[0]


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("encoder", [None, "t5"])
@pytest.mark.parametrize(
    "config", [GenerationConfig(max_new_tokens=20, batch_size=4), SAMPLED], ids=["greedy", "sampled"]
)
def test_cached_batched_decoding_equals_the_definition(family, encoder, config):
    model, asked = random_merged(family, encoder), prompts(encoder is not None)
    with torch.inference_mode():
        expected = [naive(lambda ids, p=p: last_logits(model, p, ids), i, config) for i, p in enumerate(asked)]
    assert run(ModelStepper(model), [asked], config) == expected
    assert config.temperature == 0 or len({len(ids) for ids in expected}) > 1, (
        "the test must see rows leave at different times"
    )


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_an_answer_does_not_depend_on_its_batch(batch_size):
    model, asked = random_merged("llama", "t5"), prompts(True)
    config = SAMPLED.model_copy(update={"batch_size": batch_size})
    assert run(ModelStepper(model), [asked], config) == run(ModelStepper(model), [asked], SAMPLED)


def perturbed(seed: int):
    torch.manual_seed(seed)
    model = random_merged("llama")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.7, -1.0])
@pytest.mark.parametrize("own_prompt", [False, True])
def test_proxy_tuning_is_base_plus_alpha_times_difference(alpha, own_prompt):
    models, asked = [perturbed(s) for s in (1, 2, 3)], prompts(False)
    expert_reads = (
        [TokenizedExample((9, 8, *p.prompt_ids), (), (), "sw", p.origin) for p in asked] if own_prompt else asked
    )
    versions = [asked, expert_reads, asked]
    config = GenerationConfig(max_new_tokens=12, batch_size=3)

    def combined(i, ids):
        base, expert, anti = (last_logits(m, v[i], ids).float() for m, v in zip(models, versions, strict=True))
        return base + alpha * (expert - anti)

    with torch.inference_mode():
        expected = [naive(lambda ids, i=i: combined(i, ids), i, config) for i in range(len(asked))]
    assert run(ProxyStepper([ModelStepper(m) for m in models], alpha), versions, config) == expected
    if alpha == 0:
        assert run(ModelStepper(models[0]), [asked], config) == expected


def test_extra_expert_rows_are_cut():
    combine = ProxyStepper([ModelStepper(random_merged())] * 3, 1.0)._combine
    base, big = torch.randn(2, 5), torch.randn(2, 8)
    assert torch.allclose(combine(base, big, torch.zeros(2, 8)), base + big[:, :5])


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = torch.isfinite(warp(logits, GenerationConfig(temperature=1.0, top_p=0.8)))
    assert kept.tolist() == [[True, True, False, False]]
    assert torch.isfinite(warp(logits, GenerationConfig(temperature=1.0, top_p=0.81))).sum() == 3


def test_sampling_follows_the_distribution():
    """Chi-squared over 4000 draws of the warped distribution."""
    from scipy.stats import chisquare

    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log().repeat(4000, 1)
    drawn = choose_tokens(logits, GenerationConfig(temperature=0.8), list(range(4000)), 0)
    expected = (logits[0].double() / 0.8).softmax(-1) * 4000
    assert chisquare(torch.bincount(drawn, minlength=4).numpy(), expected.numpy()).pvalue > 0.001


def test_stop_texts_end_and_cut_an_answer():
    end = Ending(frozenset({2}), ("STOP",), lambda ids: "".join(chr(i) for i in ids))
    ids = [ord(c) for c in "abcSTO"]
    assert not end.reached(ids) and end.reached([*ids, ord("P")])
    assert end.text([*ids, ord("P"), ord("x")]) == "abc"


def test_a_prompt_beyond_the_context_is_refused():
    with pytest.raises(UserError, match="p0: a prompt of .* exceed the context of 16"):
        list(generate(ModelStepper(random_merged()), [prompts(False, 1)], GenerationConfig(max_new_tokens=15), END, 16))
