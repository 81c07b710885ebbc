"""Ways of proxy-tuned decoding that take turns on the same prompts, and how many tokens per second each of them makes."""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.segments import TokenizedExample
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.generate import PromptDecoder
from mmscale.decoding.speculation import CANDIDATES, DraftLengthController, tokens_a_round
from mmscale.decoding.stop_criteria import StopCriteria

Answers = list[list[int]]
Way = Callable[[Sequence[list[TokenizedExample]], int], Answers]
"""(each model's prompts, batch size) -> new tokens of every prompt, in order."""
WAYS = ("published", "base alone", "ours, plain", "ours, speculative")


class Published:
    """As the authors' code decodes: every model in turn, its cache grown by concatenation."""

    def __init__(self, models: Sequence[Any], alpha: float, end: StopCriteria, bos: int, new_tokens: int) -> None:
        """transformers' models: base, expert, anti-expert."""
        self.models, self.device = models, models[0].device
        self.alpha, self.end, self.bos, self.new_tokens = alpha, end, bos, new_tokens
        self.noted: list[list[dict[int, float]]] | None = None
        """Where it is a list: the likeliest tokens of every prompt and step, and their combined logits."""
        self._in_float64: list[Any] = []

    @torch.inference_mode()
    def __call__(self, prompts: Sequence[list[TokenizedExample]], batch: int) -> Answers:
        found: Answers = []
        for begin in range(0, len(prompts[0]), batch):
            found += self._batch([own[begin : begin + batch] for own in prompts])
        return found

    def _batch(self, prompts: Sequence[list[TokenizedExample]]) -> Answers:
        rows = [[(self.bos, *example.prompt_ids) for example in own] for own in prompts]
        padded = [self._padded(own) for own in rows]
        feeds, masks = [ids for ids, _ in padded], [mask for _, mask in padded]
        caches: list[Any] = [None] * len(self.models)
        answers: Answers = [[] for _ in rows[0]]
        noted: list[list[dict[int, float]]] = [[] for _ in answers]
        unfinished = [True] * len(answers)
        for _ in range(self.new_tokens):
            logits = []
            for m, model in enumerate(self.models):
                places = (masks[m].cumsum(1) - 1).clamp(min=0)[:, -feeds[m].shape[1] :]
                out = model(
                    feeds[m], attention_mask=masks[m], position_ids=places, past_key_values=caches[m], use_cache=True
                )
                caches[m] = out.past_key_values
                logits.append(out.logits[:, -1])
            base, expert, antiexpert = logits
            mixed = base + self.alpha * (expert - antiexpert)
            tokens = mixed.argmax(-1)
            if self.noted is not None:
                for row, likeliest in enumerate(_likeliest(mixed)):
                    noted[row].append(likeliest)
            for row, token in enumerate(tokens.tolist()):
                if unfinished[row]:
                    answers[row].append(token)
                    unfinished[row] = not self.end.reached(answers[row])
            if not any(unfinished):
                break
            feeds = [tokens[:, None]] * len(self.models)
            masks = [torch.cat([mask, mask.new_ones(len(answers), 1)], 1) for mask in masks]
        if self.noted is not None:
            self.noted += noted
        return answers

    @torch.inference_mode()
    def exact(self, prompt: Sequence[TokenizedExample], tokens: list[int]) -> Tensor:
        """Combined logits in float64 [tokens + 1, V] before each of some tokens and after the last, of one prompt."""
        self._in_float64 = self._in_float64 or [copy.deepcopy(model).double() for model in self.models]
        rows = []
        for model, example in zip(self._in_float64, prompt, strict=True):
            ids = torch.tensor([[self.bos, *example.prompt_ids, *tokens]], device=self.device)
            rows.append(model(ids).logits[0, -len(tokens) - 1 :])
        base, expert, antiexpert = rows
        mixed: Tensor = base + self.alpha * (expert - antiexpert)
        return mixed

    def _padded(self, rows: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=self.device)
        kept = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return ids, torch.tensor(kept, device=self.device)


_AS_EXACT = 8
"""How many times the published way's error that of another right way may be: the same products, summed in another order."""
Exact = Callable[[list[int]], Tensor]
"""(tokens) -> the combined logits of a prompt in float64 [tokens + 1, V]: before each of them, and after the last."""


def _likeliest(mixed_BV: Tensor) -> list[dict[int, float]]:
    """Each row's eight likeliest tokens and their logits."""
    best = mixed_BV.topk(8)
    return [
        dict(zip(ids, values, strict=True))
        for ids, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def near_tie(ours: list[int], published: list[int], noted: list[dict[int, float]], exact: Exact) -> bool:
    """Whether answers part at tokens between which rounding decides; what follows is another text.

    Of two ways whose logits are off by e at most, each chooses its own largest: in float64 their tokens are 2 e apart at
    most. e is measured up to there, on the published way's likeliest tokens.
    """
    parting = next((i for i, (a, b) in enumerate(zip(ours, published, strict=False)) if a != b), None)
    if parting is None:
        return False
    right = exact(published[:parting])
    steps = enumerate(noted[: parting + 1])
    error = max(abs(value - float(right[i, token])) for i, near in steps for token, value in near.items())
    apart = abs(float(right[parting, published[parting]] - right[parting, ours[parting]]))
    return apart <= 2 * _AS_EXACT * error


@dataclass
class Setup:
    """Models and prompts that every way gets."""

    ensemble: Ensemble
    published: Sequence[Any]
    prompts: list[list[TokenizedExample]]
    """As each model reads them."""
    end: StopCriteria
    context_length: int
    new_tokens: int
    trained: bool
    """Whether the drafts of these models mean anything; random weights only tell what they cost."""

    def some(self, batch: int) -> list[list[TokenizedExample]]:
        """Prompts for a batch size; a few do at a batch of one."""
        count = max(batch, 4)
        return [own[:: max(1, len(own) // count)] for own in self.prompts]

    def way(self, ensemble: Ensemble, draft_length: Callable[[], DraftLengthController]) -> Way:
        """Our engine over some of the models."""

        def run(prompts: Sequence[list[TokenizedExample]], batch: int) -> Answers:
            config = GenerationConfig(max_new_tokens=self.new_tokens, batch_size=batch)
            used = prompts[: len(ensemble.models)]
            decoder = PromptDecoder(ensemble, self.end, self.context_length, draft_length())
            return [one.token_ids for one in sorted(decoder.stream(used, config), key=lambda one: one.prompt)]

        return run


@dataclass
class Tried(DraftLengthController):
    """Rounds of `tried` tokens, each of them measured."""

    tried: int = 1

    def choose(self) -> int:
        return self.tried


def rates(
    ways: dict[str, Way], prompts: Sequence[list[TokenizedExample]], batch: int, runs: int
) -> tuple[dict[str, float], dict[str, Answers]]:
    """Tokens per second of every way, and what each answered."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    answers: dict[str, Any] = {}
    published = ways[WAYS[0]]
    assert isinstance(published, Published)
    for number in range(runs + 1):  # the first one warms up, and notes how near other tokens were
        if number == 0:
            published.noted = []
        for name, way in ways.items():
            begin = time.perf_counter()
            found = way(prompts, batch)
            if number == 0:
                answers[name] = found
            else:
                took[name].append(sum(map(len, found)) / (time.perf_counter() - begin))
        if number == 0:
            published.noted, answers["noted"] = None, published.noted
    return {name: statistics.median(values) for name, values in took.items()}, answers


def agreement(
    answers: dict[str, Any], alike: Sequence[str], exact: Callable[[int, list[int]], Tensor]
) -> dict[str, dict[str, int]]:
    """How many answers of each way equal the published one's, part from it at a near-tie, or part at none; `exact` takes
    the number of a prompt first."""
    found = {}
    for name in [name for name in answers if name in alike]:
        pairs = list(zip(answers[name], answers[WAYS[0]], answers["noted"], strict=True))
        same = sum(ours == published for ours, published, _ in pairs)
        ties = sum(
            ours != published and near_tie(ours, published, noted, functools.partial(exact, i))
            for i, (ours, published, noted) in enumerate(pairs)
        )
        found[name] = {"same": same, "near_ties": ties, "different": len(pairs) - same - ties}
    return found


def predicted(draft_length: DraftLengthController, base: float, acceptances: Sequence[float]) -> list[dict[str, float]]:
    """Best tokens per round and speed against the base alone (`base` seconds per token), by the costs that a run measured: see
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


def measure(setup: Setup, batches: Sequence[int], runs: int) -> dict[str, Any]:
    """Every way at every batch size."""
    ensemble, device = setup.ensemble, setup.ensemble.device
    lm = ensemble.base.model.language_model
    newest = [DraftLengthController(device)]

    def measuring() -> DraftLengthController:
        newest[0] = DraftLengthController(device)
        return newest[0]

    def plain() -> DraftLengthController:
        return DraftLengthController(device, 1)

    published = Published(setup.published, ensemble.alpha, setup.end, lm.specials.bos, setup.new_tokens)
    ways: dict[str, Way] = {
        WAYS[0]: published,
        WAYS[1]: setup.way(Ensemble(ensemble.base), plain),
        WAYS[2]: setup.way(ensemble, plain),
    }
    if setup.trained:
        ways[WAYS[3]] = setup.way(ensemble, measuring)
    # of a low precision and random weights near-ties are everywhere
    alike = WAYS[2:] if setup.trained or device.type == "cpu" else ()
    found = []
    for batch in batches:
        prompts = setup.some(batch)

        def exact(number: int, tokens: list[int], prompts: list[list[TokenizedExample]] = prompts) -> Tensor:
            return published.exact([own[number] for own in prompts], tokens)

        speeds, answers = rates(ways, prompts, batch, runs)
        draft_length = newest[0] if setup.trained else costs(setup, prompts, batch)
        found.append(
            {
                "batch": batch,
                "tokens_per_s": speeds,
                "answers": agreement(answers, alike, exact),
                "times_published": {name: speed / speeds[WAYS[0]] for name, speed in speeds.items()},
                "times_base_alone": {name: speed / speeds[WAYS[1]] for name, speed in speeds.items()},
                **(draft_length.report() if setup.trained else {}),
                "by_acceptance": predicted(draft_length, batch / speeds[WAYS[1]], (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)),
            }
        )
    sizes = [sum(p.numel() for p in m.model.parameters()) for m in ensemble.models]
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name() if device.type == "cuda" else "not measured",
        "parameters": sizes,
        "ratio": sizes[0] / sizes[1],
        "batches": found,
    }


def itself(draft_length: DraftLengthController) -> Callable[[], DraftLengthController]:
    """Gives the same one every time."""
    return lambda: draft_length


def costs(setup: Setup, prompts: Sequence[list[TokenizedExample]], batch: int) -> DraftLengthController:
    """What drafting a token and verifying several take, whatever becomes of the drafts."""
    device = setup.ensemble.device
    whole = DraftLengthController(device)
    for tokens in (2, 4, 8, 16):
        draft_length = Tried(device, tried=tokens)
        setup.way(setup.ensemble, itself(draft_length))(prompts, batch)
        whole.verifying[tokens] = draft_length.verifying[tokens]
        whole.drafting = draft_length.drafting
    return whole
