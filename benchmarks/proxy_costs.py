"""What a round of proxy-tuned decoding costs, and how fast it would be were more or fewer drafts accepted."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.engine import DecodingEngine, GenerationRequest
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.graphs import RECORD_AT
from mmscale.decoding.speculation import CANDIDATES, DraftLengthController, Mean, tokens_a_round
from mmscale.decoding.stop_criteria import StopCriteria

ROUNDS = 4
"""Rounds of which a cost is the median."""


def predicted(draft_length: DraftLengthController, base: float, acceptances: Sequence[float]) -> list[dict[str, float]]:
    """Best tokens per round and speed against the base alone (`base` seconds per step), by the costs that a run measured: see
    docs/proxy-tuning.md. Verifying is interpolated between the numbers of tokens that were tried.
    """
    tried = sorted(draft_length.verifying)
    verifying = [draft_length.verifying[k].value for k in tried]

    def speed(acceptance: float, tokens: int) -> float:
        seconds = tokens * draft_length.drafting.value + float(np.interp(tokens, tried, verifying))
        return tokens_a_round(acceptance, tokens) / seconds

    found = []
    for acceptance in acceptances:
        best = max(range(1, CANDIDATES[-1] + 1), key=lambda k: speed(acceptance, k))
        found.append({"acceptance": acceptance, "tokens": best, "times_base_alone": base * speed(acceptance, best)})
    return found


@dataclass
class Tried(DraftLengthController):
    """Rounds of `tried` tokens, each of them measured."""

    tried: int = 1

    def choose(self) -> int:
        return self.tried


def most_tokens(tried: Sequence[int]) -> int:
    """Tokens of an answer that is long enough for all rounds, of which some drafts are right by chance."""
    return max(tried) + 2 * len(tried) * (RECORD_AT + ROUNDS)


def costs(
    ensemble: Ensemble, prompts: Sequence[Sequence[TokenizedExample]], tried: Sequence[int]
) -> DraftLengthController:
    """What drafting a token and verifying several take, whatever becomes of the drafts: of rounds of so many tokens, once what
    can be recorded is. A round of one drafts nothing.
    """
    whole, draft_length = DraftLengthController(ensemble.device), Tried(ensemble.device)
    requests = list(zip(*prompts[: len(ensemble.models)], strict=True))
    endless, most = StopCriteria(frozenset(), (), lambda ids: ""), most_tokens(tried)
    capacity = max(one.merged_length for own in requests for one in own) + most
    engine = DecodingEngine(ensemble, len(requests), capacity, draft_length)
    for number, own in enumerate(requests):
        engine.add(GenerationRequest(number, own, GenerationConfig(max_new_tokens=most), endless))
    for tokens in tried:
        draft_length.tried, draft_length.fixed = tokens, 1 if tokens == 1 else None
        drafting, verifying = [], []
        for _ in range(RECORD_AT + ROUNDS):
            draft_length.drafting, draft_length.verifying = Mean(), {}
            engine.step()
            drafting += [draft_length.drafting.value] * min(1, draft_length.drafting.seen)
            verifying += [draft_length.verifying[tokens].value] if tokens in draft_length.verifying else []
        if verifying:
            whole.verifying[tokens] = Mean(statistics.median(verifying[-ROUNDS:]), ROUNDS)
        if drafting:
            whole.drafting = Mean(statistics.median(drafting[-ROUNDS:]), ROUNDS)
    return whole
