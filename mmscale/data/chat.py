"""A template inside a tokenizer's own chat format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmscale.data.chat_rendering import chat_text
from mmscale.data.records import Record
from mmscale.data.template import Prompt, Template
from mmscale.errors import UserError

_BODY = "\u0001"
"""Stands for the part of a prompt that may be cut while the format is laid around it."""


def in_chat_format(plain: Template, tokenizer: Any, response_prefix: str = "") -> Template:
    """The template as a user's message, the answer to begin behind the format.

    With a `response_prefix` the answer goes on from that text, which stands behind the format, and is taken off the end of
    the message where it stands there already: "… Answer:" with the prefix "Answer:" becomes "[INST] … [/INST] Answer:", as
    proxy-tuning's chat experts read their questions. Raises UserError where the tokenizer has no chat format.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"the tokenizer of {getattr(tokenizer, 'name_or_path', '') or 'this model'} has no chat template: ask without "
            f"--chat-template"
        )
    prefix = response_prefix.strip()

    def prompt(record: Record) -> Prompt:
        inner = plain.prompt(record)
        after = inner.after.rstrip().removesuffix(prefix).rstrip() if prefix else inner.after
        text = chat_text(tokenizer, [{"role": "user", "content": inner.before + _BODY + after}])
        if text.count(_BODY) != 1:
            raise UserError("the model's chat template does not show a message once, as it is: ask without it")
        if prefix:
            text += prefix if text[-1:].isspace() else f" {prefix}"
        bos = getattr(tokenizer, "bos_token", None)
        before, behind = (text.removeprefix(bos) if bos else text).split(_BODY)
        return Prompt(before, inner.body, behind)

    return replace(plain, prompt=prompt, chat=False, response_prefix="")


def in_own_format(chosen: Template, tokenizer: Any) -> Template:
    """The template, in the tokenizer's chat format where it asks for it."""
    return in_chat_format(chosen, tokenizer, chosen.response_prefix) if chosen.chat else chosen
