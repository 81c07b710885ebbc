"""Model parts to solvers: plain, merged and proxy-tuned."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from mmscale.config.data import PackingConfig
from mmscale.config.evaluation import TaskConfig
from mmscale.data.loading import load_records
from mmscale.data.prompts import Prompt, Template, template
from mmscale.data.records import Record
from mmscale.data.segments import ExampleTokenizer
from mmscale.decoding.ending import ending
from mmscale.decoding.ensemble import Ensemble
from mmscale.decoding.stepper import ModelStepper
from mmscale.decoding.vocabulary import require_same_vocabulary
from mmscale.errors import UserError
from mmscale.evaluation.solving import LazySolver, Solver, answer, judge
from mmscale.models.assembly import ModelParts, assemble, provenance
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.language_model import LanguageModel
from mmscale.models.merge import MergedModel
from mmscale.parallel.layout import Layout

DEFAULT_PROMPT = "alpaca"


def _limits(model: MergedModel) -> PackingConfig:
    room = min(model.language_model.context_length, 1 << 16)
    return PackingConfig(global_batch_size=1, max_prompt_tokens=room, max_encoder_tokens=min(512, room))


def _fingerprint(parts: ModelParts, *more: object) -> str:
    return hashlib.sha256(
        json.dumps([parts.to_json(), provenance(parts), more], sort_keys=True, default=str).encode()
    ).hexdigest()[:16]


def model_solver(title: str, parts: ModelParts, prompt: str | None, layout: Layout) -> LazySolver:
    """One model, asked by a template (by default the one it was trained with)."""
    name = prompt or parts.prompt or DEFAULT_PROMPT
    fingerprint = _fingerprint(parts, name)

    def load() -> Solver:
        model, encoder_tokenizer = assemble(parts, layout)
        return solver_in_memory(title, model, encoder_tokenizer, name, fingerprint)

    return LazySolver(title, fingerprint, load)


def solver_in_memory(
    title: str, model: MergedModel, encoder_tokenizer: FamilyTokenizer | None, prompt: str, fingerprint: str
) -> Solver:
    """A model that is already loaded (and perhaps still being trained)."""
    lm = model.language_model
    tokenize = ExampleTokenizer(lm.tokenizer, lm.specials, template(prompt), _limits(model), encoder_tokenizer)
    return Solver(title, fingerprint, [tokenize], Ensemble(ModelStepper(model)), ending(lm), lm.context_length)


def task_accuracy(solver: Solver, model: MergedModel, task: TaskConfig, languages: Sequence[str]) -> float:
    """Share of a task's rows that a model answers right now, all languages together; its modes are left as they were."""
    records, _ = load_records(task.data, languages)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    rows = [judge(row, task.rule) for batch in answer(solver, records, task.generation) for row in batch]
    for module, training in modes:
        module.training = training
    return sum(row.correct for row in rows) / len(rows)


def proxy_solver(
    title: str,
    base: ModelParts,
    expert: ModelParts,
    antiexpert: ModelParts,
    alpha: float,
    layout: Layout,
    prompts: tuple[str | None, str | None, str | None] = (None, None, None),
    chat_template: bool = False,
) -> LazySolver:
    """base + alpha (expert - anti-expert). With `chat_template` the expert reads its own chat format.

    Raises UserError when the expert is the anti-expert, and at loading when vocabularies differ.
    """
    if expert.language_model.path == antiexpert.language_model.path and expert.mapping == antiexpert.mapping:
        raise UserError(
            f"expert and anti-expert are the same model ({expert.language_model.path}): their difference is zero"
        )
    parts = (base, expert, antiexpert)
    default = prompts[0] or base.prompt or DEFAULT_PROMPT
    names = [prompt or part.prompt or default for prompt, part in zip(prompts, parts, strict=True)]
    prints = [_fingerprint(part, name) for part, name in zip(parts, names, strict=True)]
    fingerprint = _fingerprint(base, prints, alpha, chat_template)

    def load() -> Solver:
        models = [assemble(part, layout) for part in parts]
        lms = [model.language_model for model, _ in models]
        _require_same_words(lms)
        tokenizers = []
        for k, ((model, encoder_tokenizer), name) in enumerate(zip(models, names, strict=True)):
            asked = _chat(template(name), lms[k].tokenizer) if chat_template and k == 1 else template(name)
            made = ExampleTokenizer(lms[k].tokenizer, lms[k].specials, asked, _limits(model), encoder_tokenizer)
            tokenizers.append(made)
        steppers = [ModelStepper(model) for model, _ in models]
        ensemble = Ensemble(steppers[0], (steppers[1], steppers[2]), alpha)
        context = min(lm.context_length for lm in lms)
        return Solver(title, fingerprint, tokenizers, ensemble, ending(lms[0]), context)

    return LazySolver(title, fingerprint, load)


def _require_same_words(lms: Sequence[LanguageModel]) -> None:
    """UserError when base, expert and anti-expert do not share vocabulary and end of text."""
    for lm, what in zip(lms[1:], ("expert", "anti-expert"), strict=True):
        require_same_vocabulary(lms[0].tokenizer, lm.tokenizer, what)
        if lm.specials.eos != lms[0].specials.eos:
            raise UserError(
                f"base and {what} end text with different tokens ({lms[0].specials.eos}, {lm.specials.eos}): set eos_token"
            )


def _chat(plain: Template, tokenizer: object) -> Template:
    """The same template inside the tokenizer's own chat format."""
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("the expert's tokenizer has no chat template: leave --chat-template out")

    def prompt(record: Record) -> Prompt:
        inner = plain.prompt(record)
        mark = "\u0001"
        text = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
            [{"role": "user", "content": inner.before + mark + inner.after}], tokenize=False, add_generation_prompt=True
        )
        bos = getattr(tokenizer, "bos_token", None)
        before, after = (text.removeprefix(bos) if bos else text).split(mark)
        return Prompt(before, inner.body, after)

    return replace(plain, prompt=prompt)
