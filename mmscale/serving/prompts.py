"""Clients' text to the prompts of every model of a solver."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmscale.answering.local import LoadedModels
from mmscale.data.chat_rendering import chat_text
from mmscale.data.prompts import Prompt, Template
from mmscale.data.records import Problem
from mmscale.data.segments import ExampleTokenizer, TokenizedExample
from mmscale.errors import UserError
from mmscale.serving.protocol import ChatRequest, CompletionRequest, InterfaceError

Prompts = tuple[TokenizedExample, ...]
"""One a model."""


def of_request(solver: LoadedModels, asked: CompletionRequest | ChatRequest, language: str) -> list[Prompts]:
    """Every prompt of a request; InterfaceError where a model cannot be asked so."""
    try:
        if isinstance(asked, ChatRequest):
            return [_conversation(solver, asked, language)]
        return [_completion(solver, one, language) for one in asked.prompts]
    except UserError as error:
        raise InterfaceError(400, str(error)) from error


def _as_it_is(tokenize: ExampleTokenizer, text: str, language: str) -> TokenizedExample:
    """Text as the model's whole prompt, and what its encoder reads."""

    def prompt(_: Any) -> Prompt:
        return Prompt("", text, "")

    plain: Template = replace(tokenize.template, prompt=prompt, reads=Problem)
    same = ExampleTokenizer(
        tokenize.tokenizer,
        tokenize.specials,
        plain,
        tokenize.limits,
        tokenize.encoder_tokenizer,
        prefix_length=tokenize.prefix_length,
    )
    return same([Problem(question=text, language=language, origin="prompt")], with_target=False)[0]


def _completion(solver: LoadedModels, prompt: str | list[int], language: str) -> Prompts:
    """The same text, or the same token ids, to every model."""
    if isinstance(prompt, str):
        return tuple(_as_it_is(tokenize, prompt, language) for tokenize in solver.tokenizers)
    if any(tokenize.encoder_tokenizer for tokenize in solver.tokenizers):
        raise InterfaceError(
            400, "this model has an encoder, which reads text: send the prompt as text", param="prompt"
        )
    if not solver.ensemble.one_vocabulary:
        raise InterfaceError(400, "these models have different tokenizers: send the prompt as text", param="prompt")
    largest = solver.ensemble.vocabulary - 1
    if max(prompt) > largest:
        raise InterfaceError(
            400, f"the prompt holds token id {max(prompt)}, and the largest is {largest}", param="prompt"
        )
    return tuple(
        TokenizedExample(
            prompt_ids=tuple(prompt[starts_with_bos(tokenize, prompt) :]),
            target_ids=(),
            encoder_ids=(),
            language=language,
            origin="prompt",
        )
        for tokenize in solver.tokenizers
    )


def starts_with_bos(tokenize: ExampleTokenizer, ids: list[int]) -> bool:
    """Whether token ids bring their BOS; every sequence gets exactly one."""
    return ids[0] == tokenize.specials.bos


def _conversation(solver: LoadedModels, asked: ChatRequest, language: str) -> Prompts:
    """To each model in its own chat format, or, where it has none, the only message in the prompt it was trained with."""
    turns = [{"role": message.role, "content": message.text} for message in asked.messages]
    return tuple(_turns(tokenize, turns, language) for tokenize in solver.tokenizers)


def _turns(tokenize: ExampleTokenizer, turns: list[dict[str, str]], language: str) -> TokenizedExample:
    tokenizer = tokenize.tokenizer
    if getattr(tokenizer, "chat_template", None):
        try:
            text = chat_text(tokenizer, turns)
        except UserError as error:
            raise InterfaceError(400, str(error), param="messages") from error
        bos = getattr(tokenizer, "bos_token", None)
        return _as_it_is(tokenize, text.removeprefix(bos) if bos else text, language)
    if len(turns) != 1 or turns[0]["role"] != "user":
        raise InterfaceError(
            400, "this model has no chat format: send a single message of the role user", param="messages"
        )
    return tokenize([Problem(question=turns[0]["content"], language=language, origin="messages")], with_target=False)[0]
