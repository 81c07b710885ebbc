"""A parrot: it answers with the last word of the question."""

from collections.abc import Container, Iterator, Sequence

from mmscale.answering.base import Answer, Answerer
from mmscale.config.evaluation import GenerationConfig
from mmscale.data.records import Record
from mmscale.models.assembly import ModelParts
from mmscale.parallel.context import ParallelContext


class Parrot(Answerer):
    def __init__(self, title: str, prompt: str) -> None:
        self.title, self.prompt, self.fingerprint = title, prompt, f"parrot {prompt}"

    def asked_by(self, prompt: str) -> "Parrot":
        return Parrot(self.title, prompt)

    def answer(
        self,
        records: Sequence[Record],
        generation: GenerationConfig,
        done: Container[str] = (),
        context: ParallelContext | None = None,
    ) -> Iterator[list[Answer]]:
        mine = records if context is None else records[context.data_rank :: context.data_size]
        yield [Answer(one, one.text.split()[-1]) for one in mine if one.origin not in done]


def parrot(title: str, parts: ModelParts, prompt: str | None, context: ParallelContext) -> Answerer:
    """A parrot: it answers with the last word of the question."""
    return Parrot(title, prompt or "dialogue")
