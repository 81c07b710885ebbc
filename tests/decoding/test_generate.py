"""Decoding with caches and leaving rows = growing the whole sequence again each step; the same alone and in company."""

from __future__ import annotations

import pytest
import torch
from mmscale_kernels import Parts, proxy_choose

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.packing import pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.sampling import DrawKey, draws, penalised
from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.errors import UserError
from tests.conftest import VOCABULARY, random_merged

SPECIALS = SpecialTokens(1, 2)
END = StopCriteria(frozenset({2, 3, 4, 5, 6}), (), lambda ids: " ".join(map(str, ids)))
"""Five stop ids, so that random models stop at different lengths."""
SAMPLED = GenerationConfig(max_new_tokens=20, temperature=1.3, top_p=0.9, batch_size=4, seed=3)


def prompts(merged: bool, count: int = 6) -> list[TokenizedExample]:
    generator = torch.Generator().manual_seed(2)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(7, VOCABULARY, (n,), generator=generator).tolist())

    return [
        TokenizedExample(
            prompt_ids=ids(1 + 5 * i % 13),
            target_ids=(),
            encoder_ids=ids(2 + 3 * i % 7) if merged else (),
            language="sw",
            origin=f"p{i}",
        )
        for i in range(count)
    ]


def run(ensemble, versions, config, **more):
    found = [g for batch in PromptDecoder(ensemble, END, 256, **more).in_batches(versions, config) for g in batch]
    return [g.token_ids for g in sorted(found, key=lambda g: g.prompt)]


def alone(model, prefill_tokens: int = 8192) -> Ensemble:
    return Ensemble(ModelStepper(model, prefill_tokens))


def naive(logits_of, prompt_number: int, config, prompt: tuple[int, ...] = ()) -> list[int]:
    """The definition: run everything again for every token."""
    ids: list[int] = []
    for position in range(config.max_new_tokens):
        logits = penalised(logits_of(ids)[None], [[*prompt, *ids]], [config])
        how = draws([DrawKey(prompt_number, position, config)], logits.device)
        token = int(proxy_choose(Parts(logits), how).token[0])
        ids.append(token)
        if token in END.stop_ids:
            break
    return ids


def last_logits(model, prompt, ids):
    grown = TokenizedExample(
        prompt_ids=(*prompt.prompt_ids, *ids), target_ids=(), encoder_ids=prompt.encoder_ids, language=prompt.language
    )
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
    assert run(alone(model), [asked], config) == expected
    assert config.temperature == 0 or len({len(ids) for ids in expected}) > 1, (
        "the test must see rows leave at different times"
    )


@pytest.mark.parametrize("batch_size", [1, 2, 6])
def test_an_answer_does_not_depend_on_its_batch(batch_size):
    model, asked = random_merged("llama", "t5"), prompts(True)
    config = SAMPLED.model_copy(update={"batch_size": batch_size})
    assert run(alone(model), [asked], config) == run(alone(model), [asked], SAMPLED)


def perturbed(seed: int):
    model = random_merged("llama")
    torch.manual_seed(seed)  # after it: what makes the model has a seed of its own
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def proxy(models, alpha: float, drafter=None) -> Ensemble:
    base, expert, antiexpert = map(ModelStepper, models)
    return Ensemble(base, (expert, antiexpert), alpha, drafter and ModelStepper(drafter))


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.7, -1.0])
@pytest.mark.parametrize("own_prompt", [False, True])
def test_proxy_tuning_is_base_plus_alpha_times_difference(alpha, own_prompt):
    models, asked = [perturbed(s) for s in (1, 2, 3)], prompts(False)
    expert_reads = (
        [
            TokenizedExample(
                prompt_ids=(9, 8, *p.prompt_ids), target_ids=(), encoder_ids=(), language="sw", origin=p.origin
            )
            for p in asked
        ]
        if own_prompt
        else asked
    )
    versions = [asked, expert_reads, asked]
    config = GenerationConfig(max_new_tokens=12, batch_size=3)

    def combined(i, ids):
        base, expert, anti = (last_logits(m, v[i], ids).float() for m, v in zip(models, versions, strict=True))
        return base + alpha * (expert - anti)

    with torch.inference_mode():
        expected = [naive(lambda ids, i=i: combined(i, ids), i, config) for i in range(len(asked))]
    assert run(proxy(models, alpha), versions, config) == expected
    if alpha in (0, 1):
        assert (run(alone(models[0]), [asked], config) == expected) == (alpha == 0), "the small models differ"


@pytest.mark.parametrize("encoder", [None, "t5"])
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_prompts_prefilled_in_pieces_are_prompts_prefilled_whole(family, encoder):
    model, asked = random_merged(family, encoder), prompts(encoder is not None)
    config = GenerationConfig(max_new_tokens=8, batch_size=6)
    whole = run(alone(model), [asked], config)
    for tokens in (1, 3, 20):
        assert run(alone(model, tokens), [asked], config) == whole


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("config", [GenerationConfig(max_new_tokens=20), SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_whose_slots_are_filled_again_gives_the_same(slots, config):
    model, asked = random_merged("qwen2", "t5"), prompts(True, 9)
    once = config.model_copy(update={"batch_size": slots})
    found = list(PromptDecoder(alone(model), END, 256).stream([asked], once, skip=frozenset({4})))
    assert sorted(g.prompt for g in found) == [0, 1, 2, 3, 5, 6, 7, 8]
    right = run(alone(model), [asked], config)
    assert all(g.token_ids == right[g.prompt] for g in found)


def test_a_repetition_penalty_is_that_of_transformers():
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, held = torch.randn(1, VOCABULARY), [3, 9, 9, 40]
    config = GenerationConfig(repetition_penalty=1.7)
    right = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([held]), logits.clone())
    assert torch.allclose(penalised(logits, [held], [config]), right)
    model, asked = random_merged(), prompts(False)
    config = config.model_copy(update={"max_new_tokens": 12, "batch_size": 3})
    with torch.inference_mode():
        expected = [
            naive(lambda ids, p=p: last_logits(model, p, ids), i, config, p.prompt_ids) for i, p in enumerate(asked)
        ]
    assert run(alone(model), [asked], config) == expected
    assert expected != run(alone(model), [asked], config.model_copy(update={"repetition_penalty": 1.0}))


def test_log_probabilities_are_those_of_the_model():
    model, asked = random_merged(), prompts(False, 2)
    config = SAMPLED.model_copy(update={"max_new_tokens": 6})
    for batch in PromptDecoder(alone(model), END, 256).in_batches([asked], config):
        for found in batch:
            prompt = asked[found.prompt]
            for place, (token, value) in enumerate(zip(found.token_ids, found.log_probabilities, strict=True)):
                logits = last_logits(model, prompt, found.token_ids[:place]).detach()
                assert value == pytest.approx(float(logits.log_softmax(-1)[token]), abs=1e-9)


def test_stop_texts_end_and_cut_an_answer():
    end = StopCriteria(frozenset({2}), ("STOP",), lambda ids: "".join(chr(i) for i in ids))
    ids = [ord(c) for c in "abcSTO"]
    assert not end.reached(ids) and end.reached([*ids, ord("P")])
    assert end.text([*ids, ord("P"), ord("x")]) == "abc"


def test_stop_texts_of_letters_in_several_tokens_end_an_answer():
    """A byte a token, as LLaMA-2's tokenizer writes Telugu, Thai and Bengali."""
    for stop in ("ప్రశ్న:", "คำถาม:", "প্রশ্ন:"):
        end = StopCriteria(frozenset({0}), (stop,), lambda ids: bytes(ids).decode(errors="replace"))
        ids = list(f"42 \n{stop}".encode())
        assert [k for k in range(1, len(ids) + 1) if end.reached(ids[:k])] == [len(ids)]
        assert end.text([*ids, 55]) == "42 \n"


def test_a_prompt_beyond_the_context_is_refused():
    decoder = PromptDecoder(alone(random_merged()), END, 16)
    with pytest.raises(UserError, match="p0: a prompt of .* exceed the context of 16"):
        list(decoder.in_batches([prompts(False, 1)], GenerationConfig(max_new_tokens=15)))
