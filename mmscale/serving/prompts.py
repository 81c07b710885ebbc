"""Clients' text to the prompts of every model of a solver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmscale.data.prompts import Prompt, Template
from mmscale.data.records import Problem
from mmscale.data.segments import ExampleTokenizer, TokenizedExample
from mmscale.evaluation.solving import Solver
from mmscale.serving.protocol import InterfaceError, Message

Prompts = tuple[TokenizedExample, ...]
"""One a model."""


def _as_it_is(tokenize: ExampleTokenizer, text: str, language: str) -> TokenizedExample:
    """Text as the model's whole prompt, and what its encoder reads."""

    def prompt(_: Any) -> Prompt:
        return Prompt("", text, "")

    plain: Template = replace(tokenize.template, prompt=prompt, reads=Problem)
    same = ExampleTokenizer(tokenize.tokenizer, tokenize.specials, plain, tokenize.limits, tokenize.encoder_tokenizer)
    return same([Problem(text, language, origin="prompt")], with_target=False)[0]


def completion(solver: Solver, text: str, language: str) -> Prompts:
    """The same text to every model."""
    return tuple(_as_it_is(tokenize, text, language) for tokenize in solver.tokenizers)


def conversation(solver: Solver, messages: list[Message], language: str) -> Prompts:
    """To each model in its own chat format, or, where it has none, the only message in the prompt it was trained with."""
    turns = [{"role": message.role, "content": message.text} for message in messages]
    return tuple(_turns(tokenize, turns, language) for tokenize in solver.tokenizers)


def _turns(tokenize: ExampleTokenizer, turns: list[dict[str, str]], language: str) -> TokenizedExample:
    tokenizer = tokenize.tokenizer
    if getattr(tokenizer, "chat_template", None):
        try:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # templates raise errors of their own, for turns they do not know
            raise InterfaceError(
                400, f"the model's chat format refuses these messages: {error}", param="messages"
            ) from error
        bos = getattr(tokenizer, "bos_token", None)
        return _as_it_is(tokenize, text.removeprefix(bos) if bos else text, language)
    if len(turns) != 1 or turns[0]["role"] != "user":
        raise InterfaceError(
            400, "this model has no chat format: send a single message of the role user", param="messages"
        )
    return tokenize([Problem(turns[0]["content"], language, origin="messages")], with_target=False)[0]
