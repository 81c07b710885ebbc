"""A model of ours that was trained to translate, asked by its prompt: question alignment's first stage, the other way round."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from mmscale.answering.local import LocalAnswerer, local_answerer
from mmscale.config.evaluation import GenerationConfig
from mmscale.corpus.translators.base import PassageTranslator, seed_of
from mmscale.data.prompts import require_readable, template
from mmscale.data.records import ParallelSentence
from mmscale.decoding.generate import Generation, PromptDecoder
from mmscale.decoding.speculation import DraftLengthController
from mmscale.errors import UserError
from mmscale.models.assembly import read_parts
from mmscale.parallel.context import ParallelContext
from mmscale.translation.translator import Translated


@functools.lru_cache(maxsize=1)
def _answerer(path: str, prompt: str | None) -> LocalAnswerer:
    """The last model that was asked for, whatever the languages."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return local_answerer(path, read_parts(path), prompt, ParallelContext(device=device))


class ModelTranslator(PassageTranslator):
    """A model folder of ours that was trained on question translation."""

    usual_unit: Literal["sentence", "text", "row"] = "text"

    @property
    def _asked(self) -> LocalAnswerer:
        return _answerer(self.config.model, self.config.prompt)

    def require(self) -> None:
        if self.config.prompt is None and not Path(self.config.model).expanduser().is_dir():
            raise UserError(
                f"translate.model={self.config.model} is no folder of a model of ours: train it first or correct the path; another "
                f"model needs translate.prompt"
            )
        require_readable(template(self._asked.prompt), [self._record("", 0)])

    @property
    def told(self) -> Any:
        return template(self._asked.prompt).prompt(self._record("", 0)).text

    @property
    def identity(self) -> Any:
        return [self._asked.fingerprint, self._asked.prompt]

    def _record(self, text: str, number: int) -> ParallelSentence:
        return ParallelSentence(text, "", self.source, self.target, f"text {number}")

    def translate(self, texts: Sequence[str]) -> Iterator[tuple[int, Translated]]:
        if not self.config.temperature:
            yield from self._translate(texts, 0)
            return
        for number, text in enumerate(
            texts
        ):  # a draw depends on its place among the prompts, so each text is one of its own
            yield from ((number, made) for _, made in self._translate([text], seed_of(self.config, text)))

    def _translate(self, texts: Sequence[str], seed: int) -> Iterator[tuple[int, Translated]]:
        solver = self._asked.loaded
        records = [self._record(text, i) for i, text in enumerate(texts)]
        prompts = [tokenize(records, with_target=False) for tokenize in solver.tokenizers]
        generation = GenerationConfig(
            max_new_tokens=self.config.max_new_tokens,
            temperature=self.config.temperature,
            seed=seed,
            batch_size=len(texts),
        )
        draft_length = DraftLengthController(solver.ensemble.device, solver.draft_tokens)
        end = solver.end.with_texts(solver.template.stop)
        decoder = PromptDecoder(solver.ensemble, end, solver.context_length, draft_length)
        for one in decoder.stream(prompts, generation):
            yield one.prompt, _translated(one, prompts[0][one.prompt].truncated)


def _translated(one: Generation, cut: bool) -> Translated:
    return Translated(one.text.strip(), source_cut=cut, finished=one.finished)
