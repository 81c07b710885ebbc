"""What prompts begin with is computed once: the same tokens and log-likelihoods as each prompt computed by itself."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.prefix import common_prefix
from mmscale.decoding.scoring import score_targets
from mmscale.decoding.stop_criteria import StopCriteria
from tests.conftest import VOCABULARY, random_merged

PREFIX = tuple(random.Random(3).randrange(3, VOCABULARY) for _ in range(80))


def prompts(count: int, encoder: bool, seed: int = 0) -> list[TokenizedExample]:
    """Ragged, and with one that is the common beginning and a single token more."""
    draw = random.Random(seed)
    tails = [tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(1, 14))) for _ in range(count - 1)]
    ids = (5, 6, 7) if encoder else ()
    return [TokenizedExample(prompt_ids=PREFIX + tail, target_ids=(), encoder_ids=ids) for tail in [*tails, (9,)]]


def steppers(kind: str, prefill_tokens: int) -> list[ModelStepper]:
    if kind == "proxy":
        return [ModelStepper(random_merged(family), prefill_tokens) for family in ("llama", "qwen2", "mistral")]
    family, _, encoder = kind.partition("+")
    return [ModelStepper(random_merged(family, encoder or None), prefill_tokens)]


def ensemble(kind: str, prefill_tokens: int = 8192) -> Ensemble:
    base, *steering = steppers(kind, prefill_tokens)
    return Ensemble(base, tuple(steering) or None, 0.7)


KINDS = ["llama", "mistral", "llama+t5", "proxy"]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_prompts_computed_whole(kind):
    """Prefill in pieces too; Mistral's window is shorter than the beginning."""
    asked = prompts(9, "+" in kind)
    found = {}
    for share, limit in ((False, 8192), (True, 8192), (True, 7)):
        models = ensemble(kind, limit)
        decoder = PromptDecoder(models, StopCriteria(frozenset({2}), (), lambda ids: ""), 256, share=share)
        config = GenerationConfig(max_new_tokens=12, batch_size=4)
        ones, held = [], set()
        for batch in decoder.in_batches([asked] * len(models.models), config):
            ones += batch
            held.add(models.base.shared_tokens)
        found[share, limit] = {one.prompt: (one.token_ids, one.log_probabilities) for one in ones}
        assert held == {len(PREFIX) + 1 + (4 if "+" in kind else 0) if share else 0}
        assert models.base.shared_tokens == 0, "nothing stays for weights that may change"
    for other in ((True, 8192), (True, 7)):
        for number, (ids, values) in found[False, 8192].items():
            assert found[other][number][0] == ids
            assert found[other][number][1] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_targets_are_as_likely_as_in_whole_rows(kind):
    draw, models = random.Random(1), ensemble(kind)
    examples = [
        replace(one, target_ids=tuple(draw.randrange(3, VOCABULARY) for _ in range(length)))
        for one in prompts(5, "+" in kind)
        for length in (1, 4, 2)
    ]
    scored = score_targets(models, [examples] * len(models.scoring))
    for one, values in zip(examples, scored, strict=True):
        row = pack([replace(one, target_ids=(*one.target_ids, 2))], models.base.model.language_model.specials)
        with torch.inference_mode():
            parts = [model.logits_of(model.model.hidden(row)) for model in models.scoring]
            rows = models.combined(models.side_by_side(parts)).log_softmax(-1)[-len(one.target_ids) - 1 : -1]
        assert values == pytest.approx(rows[range(len(values)), list(one.target_ids)].tolist(), abs=1e-9)


def test_a_beginning_is_shared_where_all_go_on_behind_it():
    some = prompts(4, encoder=False)
    assert common_prefix(some) == len(PREFIX) + 1
    assert common_prefix([*some, replace(some[0], prompt_ids=PREFIX)]) == len(PREFIX), "each has a token of its own"
    assert common_prefix([*some, replace(some[0], encoder_ids=(5,))]) == 1, "what stands first differs"
    assert common_prefix([]) == 0


def test_a_prompt_that_begins_otherwise_is_computed_whole():
    models, some = ensemble("llama"), prompts(4, encoder=False)
    with torch.inference_mode():
        models.share([some])
        other = [some[0], replace(some[1], prompt_ids=some[1].prompt_ids[1:])]
        models.reserve(2, 128)
        beside = models.admit([other]).base
        models.share([[]])
        models.reserve(2, 128)
        assert torch.allclose(beside, models.admit([other]).base, atol=1e-12)
