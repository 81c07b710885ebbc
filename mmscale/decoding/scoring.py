"""Log-probabilities of tokens that are given, under what would choose the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.transfer import tensor_on

_ROWS = 256
"""Places whose logits exist at a time."""
_PROMPTS = 32
"""Prompts whose keys and values exist at a time."""


@dataclass(frozen=True)
class ScoredToken:
    """A token of a text and how likely it was there."""

    token_id: int
    log_probability: float | None
    """None where nothing stands before it."""
    likeliest: dict[int, float]
    """The likeliest tokens of its place and their log-probabilities, best first."""


@torch.inference_mode()
def score_prompt(ensemble: Ensemble, prompts: Sequence[TokenizedExample], alternatives: int) -> list[ScoredToken]:
    """Every token of a prompt under log softmax of the ensemble's logits; `prompts[m]` is it as model m reads it.

    All models have to read the same prompt ids. One rank only.
    """
    ids = prompts[0].prompt_ids
    assert all(prompt.prompt_ids == ids for prompt in prompts), "a prompt that models read differently has no one score"
    return [ScoredToken(*scored) for scored in _scored(ensemble, prompts, ids, alternatives)]


@torch.inference_mode()
def score_targets(ensemble: Ensemble, examples: Sequence[Sequence[TokenizedExample]]) -> list[list[float]]:
    """Log-probability of every token of each target after its prompt; `examples[m][i]` has prompt i as model m reads it, and
    the base's target ids.

    What all prompts begin with is computed once, and so is a prompt that several targets stand behind. All ranks that share
    the base have to call it with the same.
    """
    steppers = ensemble.scoring
    versions = [tuple(own[i] for own in examples[: len(steppers)]) for i in range(len(examples[0]))]
    keys = [tuple((one.prompt_ids, one.encoder_ids) for one in version) for version in versions]
    firsts = {key: i for i, key in reversed(list(enumerate(keys)))}
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    prompts = [[replace(own[firsts[key]], target_ids=()) for key in numbers] for own in examples[: len(steppers)]]
    for model, own in zip(steppers, prompts, strict=True):
        model.share(own)
    try:
        return _in_turns(ensemble, versions, prompts, [numbers[key] for key in keys])
    finally:
        ensemble.forget()


def _in_turns(
    ensemble: Ensemble,
    versions: Sequence[Sequence[TokenizedExample]],
    prompts: Sequence[Sequence[TokenizedExample]],
    slots: Sequence[int],
) -> list[list[float]]:
    """Some prompts at a time; `slots` says which of them each target stands behind."""
    scored: list[list[float]] = [[] for _ in versions]
    for begin in range(0, len(prompts[0]), _PROMPTS):
        held = range(begin, min(begin + _PROMPTS, len(prompts[0])))
        chosen = [i for i, slot in enumerate(slots) if slot in held]
        targets = [versions[i][0].target_ids for i in chosen]
        of_prompts = [[own[number] for number in held] for own in prompts]
        for i, values in zip(chosen, _scored_behind(ensemble, of_prompts, [slots[i] - begin for i in chosen], targets)):
            scored[i] = values
    return scored


def _scored_behind(
    ensemble: Ensemble,
    prompts: Sequence[Sequence[TokenizedExample]],
    slots: Sequence[int],
    targets: Sequence[tuple[int, ...]],
) -> list[list[float]]:
    """Log-probabilities of each target's tokens behind the prompt in its slot."""
    models = ensemble.scoring
    for model, own in zip(models, prompts, strict=True):
        model.reserve(len(own), max(one.merged_length for one in own))
    after = [model.admit(own) for model, own in zip(models, prompts, strict=True)]
    rows = ensemble.combined(ensemble.side_by_side(after)).log_softmax(-1)
    first = rows[tensor_on(rows.device, list(slots)), tensor_on(rows.device, [ids[0] for ids in targets])].tolist()
    more = [k for k, ids in enumerate(targets) if len(ids) > 1]
    scored = [[value] for value in first]
    if more:
        read = [list(targets[k][:-1]) for k in more]
        hidden = [model.continued([slots[k] for k in more], read) for model in models]
        rest = _log_probabilities(ensemble, hidden, [token for k in more for token in targets[k][1:]])
        for k in more:
            scored[k] += rest[: len(targets[k]) - 1]
            del rest[: len(targets[k]) - 1]
    return scored


def _log_probabilities(ensemble: Ensemble, hidden: Sequence[Tensor], ids: Sequence[int]) -> list[float]:
    """Log-probability of each token after the state [N, D] that stands before it, in every model; _ROWS places at a time."""
    values: list[float] = []
    for begin in range(0, len(ids), _ROWS):
        chosen = slice(begin, begin + _ROWS)
        parts = [model.logits_of(states[chosen]) for model, states in zip(ensemble.scoring, hidden, strict=True)]
        rows = ensemble.combined(ensemble.side_by_side(parts)).log_softmax(-1)
        values += rows.gather(1, tensor_on(rows.device, list(ids[chosen]))[:, None])[:, 0].tolist()
    return values


def _scored(
    ensemble: Ensemble, examples: Sequence[TokenizedExample], ids: Sequence[int], alternatives: int
) -> list[tuple[int, float, dict[int, float]]]:
    """(id, log-probability, likeliest) of the last tokens `ids` of what the models read; a log softmax of _ROWS places exists
    at a time."""
    models = ensemble.scoring
    hidden = [_states_before(model, one, len(ids)) for model, one in zip(models, examples, strict=False)]
    scored: list[tuple[int, float, dict[int, float]]] = []
    for begin in range(0, len(ids), _ROWS):
        chosen = slice(begin, min(begin + _ROWS, len(ids)))
        parts = [model.logits_of(states[chosen]) for model, states in zip(models, hidden, strict=True)]
        rows = ensemble.combined(ensemble.side_by_side(parts)).log_softmax(-1)
        own = rows.gather(1, tensor_on(rows.device, list(ids[chosen]), torch.int64)[:, None])[:, 0].tolist()
        best = torch.topk(rows, min(alternatives, rows.shape[1]))
        for token, value, others, values in zip(
            ids[chosen], own, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            scored.append((token, value, dict(zip(others, values, strict=True))))
    return scored


def _states_before(model: ModelStepper, example: TokenizedExample, count: int) -> Tensor:
    """Hidden states [count, D] of the places before each of the example's last tokens."""
    lm = model.model.language_model
    row = pack([example], lm.specials).to(lm.device)
    after = 0 if example.target_ids else 1  # the last target token enters no input, the last prompt token does
    end = row.position_ids.shape[0] - after
    return model.model.hidden(row)[end - count : end]
