"""Whether ways of proxy-tuned decoding agree but for rounding: by their logits behind the same tokens, and by their answers.

All of them round the same products, summed in other orders. So each is held against logits in float64, on a few prompts and a
continuation that all are made to say, and ours may be off by little more than the published way. Answers may part where the
published logits of both tokens are nearer than such errors.

Legend: B prompts, Q forced tokens, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.graphs import RECORD_AT

from .proxy_published import LIKELIEST, Answers, Prompts, PublishedDecoding

PROMPTS = 4
FORCED = 8
"""Tokens behind each of these."""


def as_exact(dtype: torch.dtype) -> float:
    """How many times the published way's error that of another right way may be.

    In 16 bits nearly all of it is from rounding what stands between products, which all ways do alike. In float32 the order
    of sums matters too: oneDNN's and MKL's products may be a few times as exact as each other.
    """
    return 2 if torch.finfo(dtype).bits == 16 else 8


@dataclass(frozen=True)
class Error:
    """How far logits are from those in float64."""

    relative: float
    """Root mean square of the differences, of that of the logits."""
    largest: float
    """The largest difference at the likeliest tokens of each place."""

    def report(self) -> dict[str, float]:
        return {"relative": self.relative, "largest": self.largest}


def error(found: Tensor, exact: Tensor) -> Error:
    """The error of logits [..., V]."""
    difference = found.double() - exact
    likeliest = exact.topk(min(LIKELIEST, exact.shape[-1])).indices
    return Error(
        relative=float(difference.norm() / exact.norm()), largest=float(difference.gather(-1, likeliest).abs().max())
    )


class Reference:
    """A few prompts, tokens that follow them, and what the logits there are."""

    def __init__(self, published: PublishedDecoding, prompts: Prompts, vocabulary: int) -> None:
        # of the shorter half: float64 is slow
        order = sorted(range(len(prompts[0])), key=lambda i: prompts[0][i].merged_length)
        chosen = order[:: max(1, len(order) // (2 * PROMPTS))][:PROMPTS]
        self.prompts = [[own[i] for i in chosen] for own in prompts]
        self.count = len(chosen)
        tokens = torch.randint(vocabulary, (self.count, FORCED), generator=torch.Generator().manual_seed(1))
        self.tokens = tokens.to(published.device)
        self.exact = published.exact(self.prompts, self.tokens)[..., :vocabulary]
        self.published = error(published.forced(self.prompts, self.tokens)[..., :vocabulary], self.exact)

    def of(self, ensemble: Ensemble, batch: int, at_once: bool) -> Error:
        """The error of our logits at a batch size, the forced tokens read `at_once` or one by one."""
        rows = [i % self.count for i in range(max(batch, self.count))]
        parts = []
        for begin in range(0, len(rows), batch):
            cut = rows[begin : begin + batch]
            prompts = [[own[i] for i in cut] for own in self.prompts]
            parts.append(forced(ensemble, prompts, self.tokens[cut], batch, at_once))
        return error(torch.cat(parts), self.exact[rows])


@torch.inference_mode()
def forced(ensemble: Ensemble, prompts: Prompts, tokens_BQ: Tensor, slots: int, at_once: bool) -> Tensor:
    """Our combined logits [B, Q + 1, V] behind prompts and each of some tokens. What is read at once is read until a recording
    of it, if there is one, was replayed."""
    count, forced_tokens = tokens_BQ.shape
    longest = max(one.merged_length for own in prompts for one in own)
    ensemble.reserve(slots, longest + forced_tokens)
    rows = [ensemble.combined(ensemble.admit(prompts))[:, None]]
    if at_once:
        for _ in range(RECORD_AT):
            ensemble.verify(tokens_BQ, None)
            ensemble.roll_back([forced_tokens] * count)
        rows.append(ensemble.combined(ensemble.verify(tokens_BQ, None)).unflatten(0, (count, -1)))
    else:
        rows += [ensemble.combined(ensemble.verify(column, None))[:, None] for column in tokens_BQ.split(1, 1)]
    return torch.cat(rows, 1)


def near_tie(ours: list[int], published: list[int], noted: list[dict[int, float]], apart: float) -> bool:
    """Whether answers part at tokens between which rounding decides; what follows is another text. The published logits of
    both are at most `apart` from each other there."""
    parting = next((i for i, (a, b) in enumerate(zip(ours, published, strict=False)) if a != b), None)
    if parting is None or ours[parting] not in noted[parting]:
        return False
    return noted[parting][published[parting]] - noted[parting][ours[parting]] <= apart


def agreement(
    ours: Answers, published: Answers, noted: Sequence[list[dict[int, float]]], apart: float
) -> dict[str, int]:
    """How many answers equal the published ones, part from them at a near-tie, or part at none."""
    pairs = list(zip(ours, published, noted, strict=True))
    same = sum(a == b for a, b, _ in pairs)
    ties = sum(a != b and near_tie(a, b, near, apart) for a, b, near in pairs)
    return {"same": same, "near_ties": ties, "different": len(pairs) - same - ties}


def apart(ours: Error, published: Error) -> float:
    """How far apart two logits may be for rounding to decide between them.

    Where ours are off by e at most and the published by f, and each way takes its largest, the published logits of both
    tokens are 2 e + 2 f apart at most; as much again, since e and f were measured at other places.
    """
    return 2 * (2 * ours.largest + 2 * published.largest)


def told(reference: Reference) -> dict[str, Any]:
    """What the errors were measured on."""
    places = reference.count * (FORCED + 1)
    return {"reference": "float64", "prompts": reference.count, "places": places, **reference.published.report()}


def few(prompts: Sequence[list[TokenizedExample]], count: int) -> list[list[TokenizedExample]]:
    """So many of the prompts, from all lengths."""
    return [own[:: max(1, len(own) // count)] for own in prompts]
