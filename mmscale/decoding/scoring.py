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
def score_target(ensemble: Ensemble, examples: Sequence[TokenizedExample]) -> list[float]:
    """Log-probability of every token of a target after its prompt; `examples[m]` has the prompt as model m reads it, and the
    base's target ids.

    One rank only.
    """
    ids = examples[0].target_ids
    steppers = ensemble.scoring
    own = [
        replace(one, target_ids=tuple(model.own_ids(tensor_on(ensemble.device, list(ids))).tolist()))
        for model, one in zip(steppers, examples, strict=False)
    ]
    return [value for _, value, _ in _scored(ensemble, own, ids, 0)]


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
