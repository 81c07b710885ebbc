"""What a prompt is: how a record of a kind becomes text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem, Record
from mmscale.errors import UserError


@dataclass(frozen=True)
class Prompt:
    """LLM text in three parts; truncation may shorten `body` alone."""

    before: str
    body: str
    after: str

    @property
    def text(self) -> str:
        return self.before + self.body + self.after


@dataclass(frozen=True, kw_only=True)
class Template:
    """How records of a kind are put to a model."""

    prompt: Callable[[Record], Prompt]
    target: Callable[[Record], str]
    joined: bool = True
    """Tokenise prompt and target as one text (QAlign, mCoT) or each by itself (MindMerger)."""
    encoder_text: Callable[[Record], str] = lambda record: record.text
    encoder_language: Callable[[Record], str] = lambda record: record.language
    """Code of the language that `encoder_text` is in."""
    stop: tuple[str, ...] = ()
    """Texts at which a generated answer is cut."""
    reads: type[Record] = Problem
    """The kind of record it shows in full; of another kind it would leave something out, such as options."""
    chat: bool = False
    """Put it into the model's own chat format, as a user's message."""
    response_prefix: str = ""
    """With a chat format: text behind it that the answer goes on from."""
    described: str = ""
    """Where it comes from, of one that is written in a configuration."""
    reads_translation: bool = False
    """Whether it shows a translation of what is asked: a record without one is refused."""

    def with_changes(self, **changes: Any) -> Template:
        """The same but for some of it."""
        return replace(self, **changes)


def of_translation(plain: Template) -> Template:
    """The template put around a record's translation instead of the record: translate-test."""

    def encoder_language(record: Record) -> str:
        return plain.encoder_language(record.translated)

    return replace(
        plain,
        prompt=lambda record: plain.prompt(record.translated),
        target=lambda record: plain.target(record.translated),
        encoder_text=lambda record: plain.encoder_text(record.translated),
        encoder_language=encoder_language,
        reads_translation=True,
    )


Kind = TypeVar("Kind", Problem, ParallelSentence, MultipleChoice, Entailment)


def expect(kind: type[Kind], record: Record) -> Kind:
    """The record, if it is of the kind a template needs."""
    if not isinstance(record, kind):
        raise UserError(f"{record.origin}: this prompt needs {kind.__name__} rows, not {type(record).__name__} rows")
    return record
