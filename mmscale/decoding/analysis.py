"""Which model moved a token, place by place (proxy-tuning, arXiv 2401.08565, section 6.1).

Delta_t = p_proxy(x_t) - p_base(x_t) at the chosen token x_t, before temperature and truncation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mmscale.decoding.engine import SequenceState
from mmscale.decoding.ensemble import Ensemble, Logits


@dataclass(frozen=True, kw_only=True)
class TokenAnalysis:
    """One chosen token as each model saw it."""

    token: str
    probability: float
    """Under the combined logits."""
    base_probability: float
    expert_probability: float
    antiexpert_probability: float
    changed_top: bool
    """Whether the combined logits' likeliest token is another than the base's."""
    moved_by: str
    """`expert` or `anti-expert`, whichever logit of this token lies farther from the mean of its row; `none` for a
    difference of zero."""

    @property
    def delta(self) -> float:
        return self.probability - self.base_probability

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "delta": self.delta}


class Analyst:
    """Observes an engine and keeps what it saw of every sequence: number -> its tokens."""

    def __init__(self, ensemble: Ensemble, decode: Callable[[list[int]], str]) -> None:
        self.ensemble, self.decode = ensemble, decode
        self.tokens: dict[int, list[TokenAnalysis]] = {}

    def __call__(self, one: SequenceState, number: int, logits: Logits) -> None:
        lm = self.ensemble.base.model.language_model
        assert logits.expert is not None and logits.antiexpert is not None, (
            "there is nothing to analyse without an expert"
        )
        rows = [lm.whole_logits(part)[0].float() for part in (logits.base, logits.expert, logits.antiexpert)]
        base, expert, antiexpert = rows
        combined = base + self.ensemble.alpha * (expert - antiexpert)
        token = one.token_ids[number]
        p, p_base, p_expert, p_anti = (float(row.softmax(-1)[token]) for row in (combined, *rows))
        pulls = [float(row[token] - row.mean()) for row in (expert, antiexpert)]
        moved = "none" if pulls[0] == pulls[1] else ("expert" if abs(pulls[0]) >= abs(pulls[1]) else "anti-expert")
        changed = bool(torch.argmax(combined) != torch.argmax(base))
        seen = TokenAnalysis(
            token=self.decode([token]),
            probability=p,
            base_probability=p_base,
            expert_probability=p_expert,
            antiexpert_probability=p_anti,
            changed_top=changed,
            moved_by=moved,
        )
        self.tokens.setdefault(one.request.number, []).append(seen)


def summary(tokens: list[TokenAnalysis]) -> dict[str, float]:
    """Over all tokens: share of changed top tokens, and the mean of Delta_t."""
    count = max(1, len(tokens))
    return {
        "tokens": len(tokens),
        "changed_top_share": sum(token.changed_top for token in tokens) / count,
        "mean_delta": sum(token.delta for token in tokens) / count,
    }
