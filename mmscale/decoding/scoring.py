"""Log-probabilities of a prompt's own tokens, under what would choose the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmscale.data.packing import pack
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.stepper import ModelStepper
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
    ids, models = prompts[0].prompt_ids, ensemble.models[: 3 if ensemble.steering else 1]
    assert all(prompt.prompt_ids == ids for prompt in prompts), "a prompt that models read differently has no one score"
    hidden = [_states(model, prompt) for model, prompt in zip(models, prompts, strict=False)]
    found: list[ScoredToken] = []
    for begin in range(0, len(ids), _ROWS):
        chosen = slice(begin, min(begin + _ROWS, len(ids)))
        parts = [model.logits_of(states[chosen]) for model, states in zip(models, hidden, strict=True)]
        rows = ensemble.combined(ensemble.side_by_side(parts)).log_softmax(-1)
        own = rows.gather(1, tensor_on(rows.device, list(ids[chosen]), torch.int64)[:, None])[:, 0].tolist()
        best = torch.topk(rows, min(alternatives, rows.shape[1]))
        for token, value, others, values in zip(
            ids[chosen], own, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            found.append(ScoredToken(token, value, dict(zip(others, values, strict=True))))
    return found


def _states(model: ModelStepper, prompt: TokenizedExample) -> Tensor:
    """Hidden states [len, D] of the places before each prompt token."""
    lm = model.model.language_model
    row = pack([prompt], lm.specials).to(lm.device)
    count = len(prompt.prompt_ids)
    first = row.position_ids.shape[0] - count - 1  # the place before the first prompt token
    return model.model.hidden(row)[first : first + count]
