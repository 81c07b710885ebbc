"""The local engine: models that this process runs, plain, merged or proxy-tuned."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mmscale.answering.base import Answer, Answerer
from mmscale.config.data import PackingConfig
from mmscale.config.evaluation import MOST_ALPHA, GenerationConfig
from mmscale.data.chat import in_chat_format
from mmscale.data.prompts import Template, template
from mmscale.data.records import Record
from mmscale.data.segments import ExampleTokenizer
from mmscale.decoding.draft_length import DraftLengthController
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.generate import batches, generate
from mmscale.decoding.graphs import recorder
from mmscale.decoding.stepper import ModelStepper
from mmscale.decoding.stop_criteria import StopCriteria, stop_criteria
from mmscale.decoding.vocabulary import read_vocabulary_map, require_same_vocabulary
from mmscale.errors import UserError
from mmscale.models.assembly import ModelParts, answering_files, assemble, provenance
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.identity import Digests, file_digest
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.models.packed_linear import pack_linears
from mmscale.parallel.context import ParallelContext
from mmscale.storage.files import digest

DEFAULT_PROMPT = "alpaca"
LOCAL = "local"
"""Name of this answerer."""


@dataclass(frozen=True, kw_only=True)
class LoadedModels:
    """Models in memory that answer together: one, or those that make a proxy-tuned one."""

    title: str
    fingerprint: str
    """Names the weights and prompts, so that rows of another model are never mixed in."""
    tokenizers: Sequence[ExampleTokenizer]
    ensemble: Ensemble
    end: StopCriteria
    context_length: int
    draft_tokens: int | None = 1
    """Tokens that a round of speculative decoding tries; 1 is plain decoding, None measures what is fastest."""

    @property
    def template(self) -> Template:
        return self.tokenizers[0].template

    def asked_by(self, chosen: Template) -> LoadedModels:
        """The same, its questions put by another template."""
        return replace(self, tokenizers=[tokenize.asking_by(chosen) for tokenize in self.tokenizers])


class LocalAnswerer(Answerer):
    """Models that this process runs, loaded when something is to be answered: a run that only counts what is there needs no
    weights.
    """

    def __init__(
        self,
        title: str,
        fingerprint: str,
        load: Callable[[], LoadedModels],
        prompt: str,
        look: Callable[[], Mapping[str, Digests]],
    ) -> None:
        """`prompt` names the template by which it asks; `look` tells what lies at the paths of its models now."""
        self.title, self.fingerprint, self._load, self.prompt, self._look = title, fingerprint, load, prompt, look

    def asked_by(self, prompt: str) -> LocalAnswerer:
        fingerprint = digest([self.fingerprint, "asked by", prompt])
        return LocalAnswerer(
            self.title, fingerprint, lambda: self.loaded.asked_by(template(prompt)), prompt, lambda: self.models
        )

    @functools.cached_property
    def models(self) -> Mapping[str, Digests]:  # type: ignore[override]
        """What lay at the paths of its models when this was first asked for: what is loaded is the same, or refused."""
        return self._look()

    @functools.cached_property
    def loaded(self) -> LoadedModels:
        before = self.models
        found = self._load()
        if before != self._look():
            raise UserError(f"{self.title}: its files changed while they were loaded: run the same command again")
        return replace(found, fingerprint=digest([found.fingerprint, before]))

    def answer(
        self,
        records: Sequence[Record],
        generation: GenerationConfig,
        done: Container[str] = (),
        context: ParallelContext | None = None,
    ) -> Iterator[list[Answer]]:
        """Answers a batch at a time; cut at the template's stop texts as well.

        Batches are those of all records, whatever is done (by origin) and however many data-parallel ranks take turns at
        the rest: an answer may depend on its batch by a rounding, and so depends on nothing else.
        """
        if not records:
            return
        models = self.loaded
        config = generation.model_copy(update={"stop": (*generation.stop, *models.template.stop)})
        prompts = [tokenize(records, with_target=False) for tokenize in models.tokenizers]
        open_ones = [b for b in batches(prompts[0], config.batch_size) if any(records[i].origin not in done for i in b)]
        mine = open_ones if context is None else open_ones[context.data_rank :: context.data_size]
        end = models.end.with_texts(config.stop)
        draft_length = DraftLengthController(models.ensemble.device, models.draft_tokens)
        found = generate(models.ensemble, prompts, config, end, models.context_length, mine, draft_length)
        for batch in found:
            yield [Answer(records[one.prompt], one.text) for one in batch]


def _limits(model: MergedModel) -> PackingConfig:
    room = min(model.language_model.context_length, 1 << 16)
    return PackingConfig(global_batch_size=1, max_prompt_tokens=room, max_encoder_tokens=min(512, room))


def _looks(parts: Sequence[ModelParts]) -> Callable[[], Mapping[str, Digests]]:
    return lambda: {path: held for one in parts for path, held in answering_files(one).items()}


def _fingerprint(parts: ModelParts, *more: object) -> str:
    return digest([parts.to_json(), provenance(parts), more])


def _answering(parts: ModelParts, context: ParallelContext) -> tuple[MergedModel, FamilyTokenizer | None]:
    """A model that is loaded to answer, and for nothing else."""
    model, encoder_tokenizer = assemble(parts, context)
    pack_linears(model.language_model.causal_lm)
    return model, encoder_tokenizer


def local_answerer(title: str, parts: ModelParts, prompt: str | None, context: ParallelContext) -> LocalAnswerer:
    """One model, asked by a template (by default the one it was trained with)."""
    name = prompt or parts.prompt or DEFAULT_PROMPT
    fingerprint = _fingerprint(parts, name)

    def load() -> LoadedModels:
        model, encoder_tokenizer = _answering(parts, context)
        return models_in_memory(title, model, encoder_tokenizer, name, fingerprint)

    return LocalAnswerer(title, fingerprint, load, name, _looks([parts]))


def models_in_memory(
    title: str, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None, prompt: str, fingerprint: str
) -> LoadedModels:
    """A model that is already loaded (and perhaps still being trained)."""
    lm = model.language_model
    tokenize = ExampleTokenizer(lm.tokenizer, lm.specials, template(prompt), _limits(model), encoder_tokenizer)
    return LoadedModels(
        title=title,
        fingerprint=fingerprint,
        tokenizers=[tokenize],
        ensemble=Ensemble(_stepper(model)),
        end=stop_criteria(lm),
        context_length=lm.context_length,
    )


def _stepper(model: MergedModel, vocabulary: Tensor | None = None) -> ModelStepper:
    """Recording its steps where the device can; a model that is cut over ranks runs unrecorded."""
    lm = model.language_model
    return ModelStepper(model, vocabulary=vocabulary, recorder=None if lm.is_tensor_parallel else recorder(lm.device))


@dataclass(frozen=True, kw_only=True)
class Steering:
    """What steers a base: alpha (expert - anti-expert), and what drafts."""

    expert: ModelParts
    antiexpert: ModelParts
    alpha: float = 1.0
    expert_prompt: str | None = None
    """Template that the expert alone reads."""
    chat_template: bool = False
    """Whether the expert reads its own chat format."""
    chat_response_prefix: str = ""
    """With a chat format: text behind it that the answer goes on from, such as "Answer:"."""
    drafter: ModelParts | None = None
    """A still smaller model that drafts instead of the expert; it reads the base's prompt."""
    draft_tokens: int | None = 1
    """Tokens that a round of speculative decoding tries; 1 is plain decoding, None measures what is fastest."""
    shard_small: bool = False
    """Cut the small models over the tensor group like the base, instead of keeping them whole on every rank."""
    vocabulary_map: Path | None = None
    """From the base's tokens to those of expert, anti-expert and drafter."""

    def __post_init__(self) -> None:
        if not abs(self.alpha) <= MOST_ALPHA:
            raise UserError(f"alpha must be a finite number between -{MOST_ALPHA} and {MOST_ALPHA}, got {self.alpha}")
        expert, antiexpert = self.expert, self.antiexpert
        same = expert.language_model.path == antiexpert.language_model.path and expert.mapping == antiexpert.mapping
        if same:
            raise UserError(
                f"expert and anti-expert are the same model ({expert.language_model.path}): their difference is zero"
            )
        if self.chat_response_prefix and not self.chat_template:
            raise UserError("a chat response prefix stands behind the expert's chat format: give --chat-template too")
        if self.shard_small and self.vocabulary_map is not None:
            raise UserError("a vocabulary map needs small models that are whole on every rank: leave one of both out")


def proxy_answerer(
    title: str, base: ModelParts, steering: Steering, context: ParallelContext, prompt: str | None = None
) -> LocalAnswerer:
    """base + alpha (expert - anti-expert); UserError at loading when vocabularies differ."""
    parts = [base, steering.expert, steering.antiexpert, *([steering.drafter] if steering.drafter else [])]
    default = prompt or base.prompt or DEFAULT_PROMPT
    asked = (prompt, steering.expert_prompt or prompt, prompt, default)
    names = [name or part.prompt or default for name, part in zip(asked, parts, strict=False)]
    prints = [_fingerprint(part, name) for part, name in zip(parts, names, strict=True)]
    chat = [steering.chat_response_prefix] if steering.chat_response_prefix else []
    words = [file_digest(steering.vocabulary_map)] if steering.vocabulary_map else []
    fingerprint = _fingerprint(base, prints, steering.alpha, steering.chat_template, *chat, *words)

    def load() -> LoadedModels:
        small = context if steering.shard_small else replace(context, tensor_group=None, tensor_rank=0, tensor_size=1)
        models = [_answering(part, context if k == 0 else small) for k, part in enumerate(parts)]
        lms = [model.language_model for model, _ in models]
        vocabularies = _vocabularies(lms, steering)
        tokenizers = [
            ExampleTokenizer(lm.tokenizer, lm.specials, template(name), _limits(model), encoder_tokenizer, dress)
            for lm, name, dress, (model, encoder_tokenizer) in zip(
                lms, names, _dresses(lms, steering), models, strict=True
            )
        ]
        steppers = [_stepper(model, vocabulary=own) for (model, _), own in zip(models, vocabularies, strict=True)]
        drafter = steppers[3] if steering.drafter else None
        ensemble = Ensemble(steppers[0], (steppers[1], steppers[2]), steering.alpha, drafter)
        context_length = min(lm.context_length for lm in lms)
        return LoadedModels(
            title=title,
            fingerprint=fingerprint,
            tokenizers=tokenizers,
            ensemble=ensemble,
            end=stop_criteria(lms[0]),
            context_length=context_length,
            draft_tokens=steering.draft_tokens,
        )

    return LocalAnswerer(title, fingerprint, load, names[0], _looks(parts))


_SMALL = ("expert", "anti-expert", "drafter")


def _vocabularies(lms: Sequence[LanguageModel], steering: Steering) -> list[Tensor | None]:
    """Each model's ids of the base's tokens, where a map is given; else UserError when they are not the same."""
    if steering.vocabulary_map is None:
        _require_same_words(lms)
        return [None] * len(lms)
    base = lms[0]
    maps = [
        read_vocabulary_map(steering.vocabulary_map, base.tokenizer, lm.tokenizer, base.vocabulary, what)
        for lm, what in zip(lms[1:], _SMALL, strict=False)
    ]
    return [None, *(one.to(base.device) for one in maps)]


def _require_same_words(lms: Sequence[LanguageModel]) -> None:
    """UserError when the models do not share vocabulary and end of text."""
    for lm, what in zip(lms[1:], _SMALL, strict=False):
        require_same_vocabulary(lms[0].tokenizer, lm.tokenizer, what)
        if lm.specials.eos != lms[0].specials.eos:
            raise UserError(
                f"base and {what} end text with different tokens ({lms[0].specials.eos}, {lm.specials.eos}): set eos_token"
            )


def _dresses(lms: Sequence[LanguageModel], steering: Steering) -> list[Callable[[Template], Template]]:
    """What each model makes of the template that all are asked by: the expert may have one of its own, or a chat format."""

    def of_expert(plain: Template) -> Template:
        own = template(steering.expert_prompt) if steering.expert_prompt else plain
        if not steering.chat_template:
            return own
        return in_chat_format(own, lms[1].tokenizer, steering.chat_response_prefix)

    return [of_expert if place == 1 else (lambda plain: plain) for place in range(len(lms))]
