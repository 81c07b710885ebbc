"""Proxy-tuned decoding as the authors' code does it, and what its logits would be without rounding.

Legend: B prompts, Q forced tokens, V entries of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmscale.data.segments import TokenizedExample
from mmscale.decoding.stop_criteria import StopCriteria

Answers = list[list[int]]
Prompts = Sequence[Sequence[TokenizedExample]]
"""As each model reads them: [models][B]."""
LIKELIEST = 32
"""Tokens of a step whose logits are kept."""


class PublishedDecoding:
    """Every model in turn, its cache grown by concatenation."""

    def __init__(self, models: Sequence[Any], alpha: float, end: StopCriteria, bos: int) -> None:
        """transformers' models: base, expert, anti-expert."""
        self.models, self.device = models, models[0].device
        self.alpha, self.end, self.bos = alpha, end, bos
        self.noted: list[list[dict[int, float]]] = []
        """The last call's likeliest tokens of every prompt and step, and their combined logits."""

    @torch.inference_mode()
    def __call__(self, prompts: Prompts, batch: int, new_tokens: int) -> Answers:
        found: Answers = []
        noted = []
        for begin in range(0, len(prompts[0]), batch):
            answers, likeliest = self._batch([own[begin : begin + batch] for own in prompts], new_tokens)
            found += answers
            noted.append(likeliest)
        self.noted = [row for steps in noted for row in _by_prompt(steps)]
        return found

    def _batch(self, prompts: Prompts, new_tokens: int) -> tuple[Answers, list[Any]]:
        running, noted = _Batch(self, prompts), []
        answers: Answers = [[] for _ in prompts[0]]
        unfinished = [True] * len(answers)
        for _ in range(new_tokens):
            mixed = running.mixed()
            tokens = mixed.argmax(-1)
            noted.append(mixed.topk(min(LIKELIEST, mixed.shape[1])))  # on the device: nothing waits for it
            for row, token in enumerate(tokens.tolist()):
                if unfinished[row]:
                    answers[row].append(token)
                    unfinished[row] = not self.end.reached(answers[row])
            if not any(unfinished):
                break
            running.append(tokens)
        return answers, noted

    @torch.inference_mode()
    def forced(self, prompts: Prompts, tokens_BQ: Tensor) -> Tensor:
        """Combined logits [B, Q + 1, V] behind prompts and each of some tokens, which it is made to say."""
        running = _Batch(self, prompts)
        rows = [running.mixed()]
        for column in tokens_BQ.unbind(1):
            running.append(column)
            rows.append(running.mixed())
        return torch.stack(rows, 1)

    @torch.no_grad()
    def exact(self, prompts: Prompts, tokens_BQ: Tensor) -> Tensor:
        """The same in float64 but for transformers' norms (float32), without a cache, from one layer's copy at a time."""
        found = []
        for model, own in zip(self.models, prompts, strict=True):
            rows = [[self.bos, *one.prompt_ids, *tokens] for one, tokens in zip(own, tokens_BQ.tolist(), strict=True)]
            longest = max(map(len, rows))
            # padding stands behind what counts: a causal mask hides it
            ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
            with _in_float64(model):
                logits = model(ids, use_cache=False).logits
            ends = zip(logits, map(len, rows), strict=True)
            found.append(torch.stack([row[end - tokens_BQ.shape[1] - 1 : end] for row, end in ends]))
        base, expert, antiexpert = found
        mixed: Tensor = base + self.alpha * (expert - antiexpert)
        return mixed


class _Batch:
    """Prompts that are decoded together, padded to the left."""

    def __init__(self, published: PublishedDecoding, prompts: Prompts) -> None:
        self._models, self._alpha, bos = published.models, published.alpha, published.bos
        padded = [_padded([[bos, *example.prompt_ids] for example in own], published.device) for own in prompts]
        self._feeds, self._masks = [ids for ids, _ in padded], [mask for _, mask in padded]
        self._caches: list[Any] = [None] * len(self._models)

    def mixed(self) -> Tensor:
        """Combined logits [B, V] of the next token."""
        logits = []
        for m, model in enumerate(self._models):
            mask, feed = self._masks[m], self._feeds[m]
            places = (mask.cumsum(1) - 1).clamp(min=0)[:, -feed.shape[1] :]
            out = model(feed, attention_mask=mask, position_ids=places, past_key_values=self._caches[m], use_cache=True)
            self._caches[m] = out.past_key_values
            logits.append(out.logits[:, -1])
        base, expert, antiexpert = logits
        mixed: Tensor = base + self._alpha * (expert - antiexpert)
        return mixed

    def append(self, tokens_B: Tensor) -> None:
        self._feeds = [tokens_B[:, None]] * len(self._models)
        self._masks = [torch.cat([mask, mask.new_ones(len(mask), 1)], 1) for mask in self._masks]


def _padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
    kept = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return ids, torch.tensor(kept, device=device)


def _by_prompt(steps: list[Any]) -> list[list[dict[int, float]]]:
    """Each prompt's likeliest tokens and their logits, step by step."""
    ids = torch.stack([step.indices for step in steps], 1).tolist()
    values = torch.stack([step.values for step in steps], 1).tolist()
    return [
        [dict(zip(*step, strict=True)) for step in zip(of_ids, of_values, strict=True)]
        for of_ids, of_values in zip(ids, values, strict=True)
    ]


@contextmanager
def _in_float64(model: Any) -> Iterator[None]:
    """A model of transformers computes in float64, of which it never holds more than one layer."""
    trunk = model.get_decoder()
    with ExitStack() as hooks:
        for module in (model.get_input_embeddings(), *trunk.layers, trunk.norm, model.get_output_embeddings()):
            _widen(module, hooks)
        yield


def _widen(module: nn.Module, hooks: ExitStack) -> None:
    kept: list[tuple[nn.Parameter, Tensor]] = []

    def before(*_: Any) -> None:
        for parameter in module.parameters():
            kept.append((parameter, parameter.data))
            parameter.data = parameter.data.double()

    def after(*_: Any) -> None:
        while kept:
            parameter, own = kept.pop()
            parameter.data = own

    hooks.callback(module.register_forward_pre_hook(before).remove)
    hooks.callback(module.register_forward_hook(after, always_call=True).remove)
