"""The local engine: models that this process runs, plain, merged or proxy-tuned."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mmscale.answering.base import Answer, Answerer, Likelihood
from mmscale.config.data import PackingConfig
from mmscale.config.evaluation import MOST_ALPHA, GenerationConfig
from mmscale.data.chat import in_chat_format
from mmscale.data.prompts import ALPACA_FAMILY, Template, identity, template
from mmscale.data.records import Record
from mmscale.data.segments import ExampleTokenizer
from mmscale.decoding.ensemble import Ensemble, ModelStepper
from mmscale.decoding.generate import PromptDecoder, batches
from mmscale.decoding.graphs import recorder
from mmscale.decoding.scoring import score_targets
from mmscale.decoding.speculation import DraftLengthController
from mmscale.decoding.stop_criteria import StopCriteria, stop_criteria
from mmscale.decoding.vocabulary import read_vocabulary_map, require_same_vocabulary
from mmscale.errors import UserError
from mmscale.models.assembly import ModelParts, answering_files, assemble, provenance, wherever_it_lies
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.identity import Digests, file_digest
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.models.packed_linear import pack_linears
from mmscale.parallel.context import ParallelContext
from mmscale.progress import say
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

    trained_by: Template | None = None
    """The prompt of its training, where that is known."""

    @property
    def template(self) -> Template:
        return self.tokenizers[0].template

    def tell_of_unused_chat_format(self) -> None:
        """A line where a model that knows conversations is asked through the Alpaca prompt, which it was hardly tuned on."""
        asked, tokenizer = self.tokenizers[0].plain, self.tokenizers[0].tokenizer
        other = asked in ALPACA_FAMILY and asked is not self.trained_by
        if other and getattr(tokenizer, "chat_template", None):
            say(
                f"{self.title}: it has a chat template and is asked through the Alpaca prompt: --chat-template, or prompt: "
                f"{{chat: true}}, asks it as a conversation"
            )

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
        fingerprint = digest([self.fingerprint, "asked by", *identity(prompt)])
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
        loaded = self._load()
        if before != self._look():
            raise UserError(f"{self.title}: its files changed while they were loaded: run the same command again")
        return replace(loaded, fingerprint=digest([loaded.fingerprint, before]))

    @functools.cached_property
    def _told(self) -> None:
        """Told once, when it is first asked."""
        self.loaded.tell_of_unused_chat_format()

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
        self._told  # noqa: B018
        config = generation.model_copy(update={"stop": (*generation.stop, *models.template.stop)})
        prompts = [tokenize(records, with_target=False) for tokenize in models.tokenizers]
        open_ones = [b for b in batches(prompts[0], config.batch_size) if any(records[i].origin not in done for i in b)]
        mine = open_ones if context is None else open_ones[context.data_rank :: context.data_size]
        end = models.end.with_texts(config.stop)
        draft_length = DraftLengthController(models.ensemble.device, models.draft_tokens)
        decoder = PromptDecoder(models.ensemble, end, models.context_length, draft_length)
        for batch in decoder.in_batches(prompts, config, mine):
            yield [Answer(records[one.prompt], one.text) for one in batch]

    def likelihoods(self, records: Sequence[Record]) -> list[Likelihood]:
        """How likely each record's target is after its prompt; what prompts begin with is computed once.

        Proxy-tuned: by the combined logits. UserError where prompt or target is longer than what the models read.
        """
        if not records:
            return []
        models = self.loaded
        self._told  # noqa: B018
        versions = [tokenize(records) for tokenize in models.tokenizers]
        for one in (one for own in versions for one in own):
            if one.truncated or one.merged_length > models.context_length:
                raise UserError(
                    f"{one.origin}: prompt and target exceed the context of {models.context_length}: shorten them"
                )
        targets = [one.target_ids[:-1] for one in versions[0]]  # without end of text
        examples = [[replace(one, target_ids=ids) for one, ids in zip(own, targets, strict=True)] for own in versions]
        scored = score_targets(models.ensemble, examples)
        return [Likelihood(math.fsum(values), len(values)) for values in scored]


def _limits(model: MergedModel) -> PackingConfig:
    room = min(model.language_model.context_length, 1 << 16)
    return PackingConfig(
        global_batch_size=1, max_prompt_tokens=room, max_target_tokens=room, max_encoder_tokens=min(512, room)
    )


def _looks(parts: Sequence[ModelParts]) -> Callable[[], Mapping[str, Digests]]:
    return lambda: {path: held for one in parts for path, held in answering_files(one).items()}


def _fingerprint(parts: ModelParts, *more: object) -> str:
    return digest([wherever_it_lies(parts).to_json(), provenance(parts), more])


def _answering(parts: ModelParts, context: ParallelContext) -> tuple[MergedModel, FamilyTokenizer | None]:
    """A model that is loaded to answer, and for nothing else."""
    model, encoder_tokenizer = assemble(parts, context)
    pack_linears(model.language_model.causal_lm)
    return model, encoder_tokenizer


def local_answerer(title: str, parts: ModelParts, prompt: str | None, context: ParallelContext) -> LocalAnswerer:
    """One model, asked by a template (by default the one it was trained with)."""
    name = prompt or parts.prompt or DEFAULT_PROMPT
    fingerprint = _fingerprint(parts, *identity(name))

    def load() -> LoadedModels:
        model, encoder_tokenizer = _answering(parts, context)
        models = models_in_memory(title, model, encoder_tokenizer, name, fingerprint)
        return replace(models, trained_by=template(parts.prompt) if parts.prompt else None)

    return LocalAnswerer(title, fingerprint, load, name, _looks([parts]))


def models_in_memory(
    title: str, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None, prompt: str, fingerprint: str
) -> LoadedModels:
    """A model that is already loaded (and perhaps still being trained)."""
    lm = model.language_model
    limits, prefix = _limits(model), model.prefix_length
    tokenize = ExampleTokenizer(
        lm.tokenizer, lm.specials, template(prompt), limits, encoder_tokenizer, prefix_length=prefix
    )
    return LoadedModels(
        title=title,
        fingerprint=fingerprint,
        tokenizers=[tokenize],
        ensemble=Ensemble(_stepper(model)),
        end=stop_criteria(lm),
        context_length=lm.context_length,
    )


def _stepper(model: MergedModel, vocabulary: Tensor | None = None) -> ModelStepper:
    """Recording its steps where the device can; a model that is cut over ranks, or whose layers read encoder states, runs
    unrecorded."""
    lm = model.language_model
    unrecorded = lm.is_tensor_parallel or model.layers_read
    return ModelStepper(model, vocabulary=vocabulary, recorder=None if unrecorded else recorder(lm.device))


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


@dataclass(frozen=True, kw_only=True)
class _Member:
    """A model of a proxy-tuned one, before and after it is loaded."""

    role: str
    """Base, expert, anti-expert or drafter."""
    parts: ModelParts
    prompt: str
    """Name of the template by which it is asked."""

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.parts, *identity(self.prompt))


@dataclass(frozen=True, kw_only=True)
class _LoadedMember:
    """A member in memory."""

    member: _Member
    model: MergedModel
    encoder_tokenizer: FamilyTokenizer | None

    @property
    def language_model(self) -> LanguageModel:
        return self.model.language_model

    def tokenizer(self, dress: Callable[[Template], Template]) -> ExampleTokenizer:
        """How it reads records; `dress` is what it makes of every template."""
        lm, asked_by, limits = self.language_model, template(self.member.prompt), _limits(self.model)
        prefix = self.model.prefix_length
        return ExampleTokenizer(lm.tokenizer, lm.specials, asked_by, limits, self.encoder_tokenizer, dress, prefix)


def _members(base: ModelParts, steering: Steering, prompt: str | None) -> list[_Member]:
    """Base, expert, anti-expert and perhaps a drafter, in the order in which the ensemble has them."""
    default = prompt or base.prompt or DEFAULT_PROMPT

    def member(role: str, parts: ModelParts, asked_by: str | None) -> _Member:
        return _Member(role=role, parts=parts, prompt=asked_by or parts.prompt or default)

    members = [
        member("base", base, prompt),
        member("expert", steering.expert, steering.expert_prompt or prompt),
        member("anti-expert", steering.antiexpert, prompt),
    ]
    return [*members, *([member("drafter", steering.drafter, default)] if steering.drafter else [])]


def proxy_answerer(
    title: str, base: ModelParts, steering: Steering, context: ParallelContext, prompt: str | None = None
) -> LocalAnswerer:
    """base + alpha (expert - anti-expert); UserError at loading when vocabularies differ."""
    members = _members(base, steering, prompt)
    chat = [steering.chat_response_prefix] if steering.chat_response_prefix else []
    words = [file_digest(steering.vocabulary_map)] if steering.vocabulary_map else []
    prints = [member.fingerprint for member in members]
    fingerprint = _fingerprint(base, prints, steering.alpha, steering.chat_template, *chat, *words)

    def load() -> LoadedModels:
        loaded = [_loaded(member, steering, context) for member in members]
        first, *small = loaded
        steppers = [_stepper(first.model)]
        steppers += [_stepper(one.model, vocabulary=_vocabulary(first, one, steering)) for one in small]
        drafter = steppers[3] if steering.drafter else None
        return LoadedModels(
            title=title,
            fingerprint=fingerprint,
            tokenizers=[one.tokenizer(_dress(one, steering)) for one in loaded],
            ensemble=Ensemble(steppers[0], (steppers[1], steppers[2]), steering.alpha, drafter),
            end=stop_criteria(first.language_model),
            context_length=min(one.language_model.context_length for one in loaded),
            draft_tokens=steering.draft_tokens,
        )

    return LocalAnswerer(title, fingerprint, load, members[0].prompt, _looks([member.parts for member in members]))


def _loaded(member: _Member, steering: Steering, context: ParallelContext) -> _LoadedMember:
    """Small models stand whole on every rank, unless they are to be cut like the base."""
    whole = member.role != "base" and not steering.shard_small
    own = replace(context, tensor_group=None, tensor_rank=0, tensor_size=1) if whole else context
    model, encoder_tokenizer = _answering(member.parts, own)
    return _LoadedMember(member=member, model=model, encoder_tokenizer=encoder_tokenizer)


def _vocabulary(base: _LoadedMember, other: _LoadedMember, steering: Steering) -> Tensor | None:
    """A small model's ids of the base's tokens, where a map is given; else UserError when they are not the same."""
    first, lm, role = base.language_model, other.language_model, other.member.role
    if steering.vocabulary_map is not None:
        named = read_vocabulary_map(steering.vocabulary_map, first.tokenizer, lm.tokenizer, first.vocabulary, role)
        return named.to(first.device)
    require_same_vocabulary(first.tokenizer, lm.tokenizer, role)
    if lm.specials.eos != first.specials.eos:
        raise UserError(
            f"base and {role} end text with different tokens ({first.specials.eos}, {lm.specials.eos}): set eos_token"
        )
    return None


def _dress(one: _LoadedMember, steering: Steering) -> Callable[[Template], Template]:
    """What a model makes of the template that all are asked by: the expert may have one of its own, or a chat format."""

    def of_expert(plain: Template) -> Template:
        own = template(steering.expert_prompt) if steering.expert_prompt else plain
        if not steering.chat_template:
            return own
        return in_chat_format(own, one.language_model.tokenizer, steering.chat_response_prefix)

    return of_expert if one.member.role == "expert" else lambda plain: plain
