"""What a data source yields: one small frozen class for each kind of example."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ParallelSentence:
    """One sentence in two languages."""

    source: str
    target: str
    source_language: str
    target_language: str
    origin: str = ""
    """Where it was read: "file:line"."""


@dataclass(frozen=True)
class Problem:
    """A question with its chain of thought and gold answer."""

    question: str
    language: str
    answer: str = ""
    rationale: str = ""
    """The response a model is trained on: chain of thought with the final answer in it."""
    rationale_language: str = "en"
    english_question: str = ""
    """The English original where the file carries it."""
    origin: str = ""


@dataclass(frozen=True)
class MultipleChoice:
    """A question with labelled options."""

    question: str
    choices: tuple[tuple[str, str], ...]
    """(label, text) in the order of the file."""
    language: str
    answer: str = ""
    """Label of the right option; empty where the split hides it."""
    relation: str = ""
    """XCOPA: "cause" or "effect"."""
    identifier: str = ""
    origin: str = ""
    reference_relation: str = ""
    """XCOPA: the relation by Estonian's file, where that is at hand."""


@dataclass(frozen=True)
class Entailment:
    """A premise, a hypothesis and their label: entailment, neutral or contradiction."""

    premise: str
    hypothesis: str
    language: str
    label: str = ""
    origin: str = ""


Record = ParallelSentence | Problem | MultipleChoice | Entailment


def question_text(record: Record) -> str:
    """The text a model reads first, whatever the kind of record."""
    if isinstance(record, ParallelSentence):
        return record.source
    if isinstance(record, Entailment):
        return record.premise
    return record.question


def record_language(record: Record) -> str:
    return record.source_language if isinstance(record, ParallelSentence) else record.language
