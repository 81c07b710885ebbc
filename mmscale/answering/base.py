"""What answers: one protocol for the local engine and for whatever another package brings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from mmscale.config.evaluation import GenerationConfig
from mmscale.data.prompts import template
from mmscale.data.records import Record
from mmscale.errors import UserError

if TYPE_CHECKING:  # files are scored without torch
    from mmscale.models.assembly import ModelParts
    from mmscale.parallel.context import ParallelContext


@dataclass(frozen=True)
class Answer:
    """What a record was answered with, not yet judged."""

    record: Record
    text: str


@dataclass(frozen=True)
class Likelihood:
    """How likely a text is behind a prompt."""

    log_likelihood: float
    """In nats, the end of text not counted."""
    tokens: int
    """Tokens of the model that the text is made of."""


class Answerer(ABC):
    """Answers records. It is made before anything is to be answered, and loads what it needs when it is asked."""

    title: str
    """For people."""
    fingerprint: str
    """Digest of the weights and prompts, so that answers of another model are never mixed in."""
    prompt: str
    """Name of the template by which it asks."""
    models: Mapping[str, Mapping[str, str]] = MappingProxyType({})
    """Digests of the files at the paths of its models, by path, where no fingerprint holds them: another model at the same path
    is then told from it. Without a path: the model is not here, or known otherwise."""

    @abstractmethod
    def asked_by(self, prompt: str) -> Answerer:
        """The same, its questions put by another template, under a fingerprint of its own."""

    @abstractmethod
    def answer(
        self,
        records: Sequence[Record],
        generation: GenerationConfig,
        done: Container[str] = (),
        context: ParallelContext | None = None,
    ) -> Iterator[list[Answer]]:
        """Answers of this rank's share of the records, a batch at a time, as they are ready.

        Records of `done` (by origin) may be left out, or be answered beside others. What a record is answered with may
        depend on no others than `records`. UserError where a question leaves no room for its answer.
        """

    def targets(self, records: Sequence[Record]) -> list[str]:
        """What it would be right to answer to each record, as its prompt puts it."""
        chosen = template(self.prompt)
        return [chosen.target(record) for record in records]

    def likelihoods(self, records: Sequence[Record]) -> list[Likelihood]:
        """How likely each record's target is after its prompt. UserError where this cannot be known.

        Ranks that share a model's layers call it with the same records.
        """
        raise UserError(f"{self.title} gives no probabilities of texts that it did not write")

    def log_likelihood(self, records: Sequence[Record]) -> list[float]:
        """`likelihoods` without the lengths."""
        return [one.log_likelihood for one in self.likelihoods(records)]


AnswererFactory = Callable[[str, "ModelParts", "str | None", "ParallelContext"], Answerer]
"""(title, parts of the model, template or None for the one it was trained with, ranks) -> what answers for it."""
