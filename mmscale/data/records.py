"""What a data source yields: one small frozen class for each kind of example."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

ENTAILMENT_LABELS = ("entailment", "neutral", "contradiction")
"""In the order of the hub's numbers."""


@dataclass(frozen=True)
class Translation:
    """What a record asks, in another language."""

    texts: tuple[str, ...]
    """In the order of the record's own `texts`."""
    language: str


class Record(ABC):
    """One example. A template says which kinds of record it reads."""

    origin: str
    """Where it was read: "file:line"."""
    language: str
    """Code of the language that its text is in."""
    translation: Translation | None
    """What it asks in the language that a translator was asked for; None where none was."""

    @property
    @abstractmethod
    def text(self) -> str:
        """What a model reads first."""

    @property
    @abstractmethod
    def gold(self) -> str:
        """What a right answer says; empty where the file hides it."""

    @property
    def english(self) -> str | None:
        """The text's English side, where the row carries it."""
        return None

    @property
    def sides(self) -> tuple[str, ...]:
        """The text, and the same in other languages where the row carries it."""
        return (self.text,) if self.english is None else tuple(dict.fromkeys((self.text, self.english)))

    @property
    def asked_beside(self) -> str:
        """What the question says beside its text: options, a hypothesis."""
        return ""

    @property
    def options(self) -> tuple[Record, ...]:
        """The record with each of its possible answers as its gold; none where an answer is anything."""
        return ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts that it asks with, for a translator; none where it has its translation already."""
        return (self.text,)

    def beside(self, translation: Translation) -> Record:
        """The same record with a translation."""
        with_it: Record = replace(self, translation=translation)  # type: ignore[type-var]
        return with_it

    def put_in(self, translation: Translation) -> Record:
        """The same record, asking in the words and the language of a translation."""
        return self

    @property
    def translated(self) -> Record:
        """What stands in its place where its translation is read instead: the same, asking in the other language.

        Its gold answer and rationale are this record's own.
        """
        return self if self.translation is None else self.put_in(self.translation)


@dataclass(frozen=True)
class ParallelSentence(Record):
    """One sentence in two languages."""

    source: str
    target: str
    source_language: str
    target_language: str
    origin: str = ""
    translation: Translation | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return ()

    @property
    def language(self) -> str:  # type: ignore[override]
        return self.source_language

    @property
    def text(self) -> str:
        return self.source

    @property
    def gold(self) -> str:
        return self.target

    @property
    def english(self) -> str | None:
        return {self.source_language: self.source, self.target_language: self.target}.get("en")

    @property
    def sides(self) -> tuple[str, ...]:
        return self.source, self.target


class _Question(Record):
    question: str
    answer: str

    @property
    def text(self) -> str:
        return self.question

    @property
    def gold(self) -> str:
        return self.answer


@dataclass(frozen=True, kw_only=True)
class Problem(_Question):
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
    translation: Translation | None = None

    @property
    def english(self) -> str | None:
        return self.english_question or None

    def put_in(self, translation: Translation) -> Problem:
        return replace(self, question=translation.texts[0], language=translation.language, translation=None)


@dataclass(frozen=True, kw_only=True)
class MultipleChoice(_Question):
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
    translation: Translation | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return self.question, *(text for _, text in self.choices)

    def put_in(self, translation: Translation) -> MultipleChoice:
        question, *texts = translation.texts
        labels = [label for label, _ in self.choices]
        choices = tuple(zip(labels, texts, strict=True))
        return replace(self, question=question, choices=choices, language=translation.language, translation=None)

    @property
    def asked_beside(self) -> str:
        return repr(self.choices) + self.relation

    @property
    def options(self) -> tuple[Record, ...]:
        return tuple(replace(self, answer=label) for label, _ in self.choices)

    @property
    def chosen(self) -> str:
        """The text of the right option."""
        return dict(self.choices)[self.answer]


@dataclass(frozen=True)
class Entailment(Record):
    """A premise, a hypothesis and their label: entailment, neutral or contradiction."""

    premise: str
    hypothesis: str
    language: str
    label: str = ""
    origin: str = ""
    translation: Translation | None = None

    @property
    def texts(self) -> tuple[str, ...]:
        return self.premise, self.hypothesis

    def put_in(self, translation: Translation) -> Entailment:
        premise, hypothesis = translation.texts
        return replace(self, premise=premise, hypothesis=hypothesis, language=translation.language, translation=None)

    @property
    def text(self) -> str:
        return self.premise

    @property
    def gold(self) -> str:
        return self.label

    @property
    def asked_beside(self) -> str:
        return self.hypothesis

    @property
    def options(self) -> tuple[Record, ...]:
        written = str.capitalize if self.label[:1].isupper() else str.lower
        return tuple(replace(self, label=written(label)) for label in ENTAILMENT_LABELS)
