"""Batched generation: longest prompts together, finished sequences leave, order of results kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mmscale.config.evaluation import GenerationConfig
from mmscale.decoding.sampling import choose_tokens
from mmscale.decoding.steppers import PromptSet, Stepper
from mmscale.errors import UserError

_COMPACT_BELOW = 0.75
"""Drop finished sequences from the batch when fewer than this share is still running."""


@dataclass
class Generation:
    """The continuation of one prompt."""

    prompt: int
    token_ids: list[int] = field(default_factory=list)
    finished: bool = False
    """Ended by itself (EOS or stop text) rather than by max_new_tokens."""
    text: str = ""


@dataclass(frozen=True)
class Ending:
    """When a continuation ends, and how its text is cut."""

    stop_ids: frozenset[int]
    stop_texts: tuple[str, ...]
    decode: Callable[[list[int]], str]

    def reached(self, ids: list[int]) -> bool:
        if ids[-1] in self.stop_ids:
            return True
        if not self.stop_texts:
            return False
        tail = self.decode(ids[-max(len(stop) for stop in self.stop_texts) - 4 :])
        return any(stop in tail for stop in self.stop_texts)

    def text(self, ids: list[int]) -> str:
        text = self.decode([i for i in ids if i not in self.stop_ids])
        cut = [text.index(stop) for stop in self.stop_texts if stop in text]
        return text[: min(cut)] if cut else text


def ending(language_model: Any, stop_texts: Sequence[str]) -> Ending:
    """EOS of ours and of the model's generation config (LLaMA-3 has several), and stop texts."""
    stops = {language_model.specials.eos}
    configured = getattr(getattr(language_model.causal_lm, "generation_config", None), "eos_token_id", None)
    stops |= (
        set(configured)
        if isinstance(configured, (list, tuple))
        else ({configured} if configured is not None else set())
    )
    tokenizer = language_model.tokenizer
    return Ending(frozenset(stops), tuple(stop_texts), lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)))


def batches(own: PromptSet, size: int) -> list[list[int]]:
    """Prompt numbers of each batch, the longest prompts first: a function of all prompts, whoever answers which."""
    order = sorted(range(len(own)), key=lambda i: -own[i].merged_length)
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


@torch.inference_mode()
def generate(
    stepper: Stepper,
    prompts: Sequence[PromptSet],
    config: GenerationConfig,
    end: Ending,
    context_length: int,
    chosen: Sequence[list[int]] | None = None,
) -> Iterator[list[Generation]]:
    """Finished generations, a batch at a time, of some of the `batches` or of all. `prompts[m][i]` is prompt i as
    model m reads it.

    Raises UserError naming the first prompt that leaves no room for max_new_tokens.
    """
    for versions in zip(*prompts, strict=True):
        longest = max(version.merged_length for version in versions)
        if longest + config.max_new_tokens > context_length:
            raise UserError(
                f"{versions[0].origin}: a prompt of {longest} tokens and max_new_tokens="
                f"{config.max_new_tokens} exceed the context of {context_length}: lower max_new_tokens or shorten the prompt"
            )
    for batch in batches(prompts[0], config.batch_size) if chosen is None else chosen:
        yield _batch(stepper, [[version[i] for i in batch] for version in prompts], batch, config, end)


def _batch(
    stepper: Stepper, prompts: Sequence[PromptSet], numbers: list[int], config: GenerationConfig, end: Ending
) -> list[Generation]:
    results = [Generation(number) for number in numbers]
    running = list(range(len(results)))
    logits = stepper.start(prompts, config.max_new_tokens)
    for position in range(config.max_new_tokens):
        tokens = choose_tokens(logits, config, [results[k].prompt for k in running], position)
        for k, token in zip(running, tokens.tolist(), strict=True):
            result = results[k]
            if not result.finished:
                result.token_ids.append(token)
                result.finished = end.reached(result.token_ids)
        left = [place for place, k in enumerate(running) if not results[k].finished]
        if not left or position + 1 == config.max_new_tokens:
            break
        if len(left) < _COMPACT_BELOW * len(running):
            rows = torch.tensor(left, device=tokens.device)
            stepper.keep(rows)
            tokens, running = tokens[rows], [running[place] for place in left]
        logits = stepper.step(tokens)
    for result in results:
        result.text = end.text(result.token_ids)
    return results
