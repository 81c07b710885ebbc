"""Model parts to solvers: plain, merged and proxy-tuned."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from mmscale.config.data import PackingConfig
from mmscale.config.evaluation import TaskConfig
from mmscale.data.chat import in_chat_format
from mmscale.data.loading import load_records
from mmscale.data.prompts import Template, template
from mmscale.data.segments import ExampleTokenizer
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.graphs import recorder
from mmscale.decoding.stepper import ModelStepper
from mmscale.decoding.stop_criteria import stop_criteria
from mmscale.decoding.vocabulary import read_vocabulary_map, require_same_vocabulary
from mmscale.errors import UserError
from mmscale.evaluation.solving import LazySolver, Solver, answer, judge, require_scorable
from mmscale.models.assembly import ModelParts, assemble, provenance
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.models.packed_linear import pack_linears
from mmscale.parallel.context import ParallelContext

DEFAULT_PROMPT = "alpaca"


def _limits(model: MergedModel) -> PackingConfig:
    room = min(model.language_model.context_length, 1 << 16)
    return PackingConfig(global_batch_size=1, max_prompt_tokens=room, max_encoder_tokens=min(512, room))


def _fingerprint(parts: ModelParts, *more: object) -> str:
    return hashlib.sha256(
        json.dumps([parts.to_json(), provenance(parts), more], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]


def _answering(parts: ModelParts, context: ParallelContext) -> tuple[MergedModel, FamilyTokenizer | None]:
    """A model that is loaded to answer, and for nothing else."""
    model, encoder_tokenizer = assemble(parts, context)
    pack_linears(model.language_model.causal_lm)
    return model, encoder_tokenizer


def model_solver(title: str, parts: ModelParts, prompt: str | None, context: ParallelContext) -> LazySolver:
    """One model, asked by a template (by default the one it was trained with)."""
    name = prompt or parts.prompt or DEFAULT_PROMPT
    fingerprint = _fingerprint(parts, name)

    def load() -> Solver:
        model, encoder_tokenizer = _answering(parts, context)
        return solver_in_memory(title, model, encoder_tokenizer, name, fingerprint)

    return LazySolver(title, fingerprint, load, name)


def solver_in_memory(
    title: str, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None, prompt: str, fingerprint: str
) -> Solver:
    """A model that is already loaded (and perhaps still being trained)."""
    lm = model.language_model
    tokenize = ExampleTokenizer(lm.tokenizer, lm.specials, template(prompt), _limits(model), encoder_tokenizer)
    return Solver(title, fingerprint, [tokenize], Ensemble(_stepper(model)), stop_criteria(lm), lm.context_length)


def _stepper(model: MergedModel, vocabulary: Tensor | None = None) -> ModelStepper:
    """Recording its steps where the device can; a model that is cut over ranks runs unrecorded."""
    lm = model.language_model
    return ModelStepper(model, vocabulary=vocabulary, recorder=None if lm.is_tensor_parallel else recorder(lm.device))


def task_accuracy(solver: Solver, model: MergedModel, task: TaskConfig, languages: Sequence[str]) -> float:
    """Share of a task's rows that a model answers right now, all languages together; its modes are left as they were."""
    records, _ = load_records(task.data, languages)
    require_scorable(records, task.rule)
    if task.prompt is not None:
        solver = solver.asked_by(template(task.prompt))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    rows = [judge(row, task.rule) for batch in answer(solver, records, task.generation) for row in batch]
    for module, training in modes:
        module.training = training
    return sum(row.correct for row in rows) / len(rows)


@dataclass(frozen=True)
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
        if not math.isfinite(self.alpha):
            raise UserError(f"alpha must be a finite number, got {self.alpha}")
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


def proxy_solver(
    title: str, base: ModelParts, steering: Steering, context: ParallelContext, prompt: str | None = None
) -> LazySolver:
    """base + alpha (expert - anti-expert); UserError at loading when vocabularies differ."""
    parts = [base, steering.expert, steering.antiexpert, *([steering.drafter] if steering.drafter else [])]
    default = prompt or base.prompt or DEFAULT_PROMPT
    asked = (prompt, steering.expert_prompt or prompt, prompt, default)
    names = [name or part.prompt or default for name, part in zip(asked, parts, strict=False)]
    prints = [_fingerprint(part, name) for part, name in zip(parts, names, strict=True)]
    chat = [steering.chat_response_prefix] if steering.chat_response_prefix else []
    fingerprint = _fingerprint(base, prints, steering.alpha, steering.chat_template, *chat)

    def load() -> Solver:
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
        return Solver(
            title, fingerprint, tokenizers, ensemble, stop_criteria(lms[0]), context_length, steering.draft_tokens
        )

    return LazySolver(title, fingerprint, load, names[0])


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
