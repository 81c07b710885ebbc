"""Model parts to solvers: plain, merged and proxy-tuned."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch

from mmscale.config.data import PackingConfig
from mmscale.data.prompts import Template, template
from mmscale.data.segments import ExampleTokenizer
from mmscale.decoding.generate import ending
from mmscale.decoding.steppers import ModelStepper, ProxyStepper
from mmscale.decoding.vocabulary import require_same_vocabulary
from mmscale.errors import UserError
from mmscale.evaluation.solving import Solver
from mmscale.models.assembly import ModelParts, assemble
from mmscale.models.merge import MergedModel

DEFAULT_PROMPT = "alpaca"


def _limits(model: MergedModel) -> PackingConfig:
    room = min(model.language_model.context_length, 1 << 16)
    return PackingConfig(global_batch_size=1, max_prompt_tokens=room, max_encoder_tokens=min(512, room))


def _fingerprint(parts: ModelParts, *more: object) -> str:
    files = [Path(parts.language_model.path) / "fingerprint.json"]
    if parts.mapping:
        files.append(Path(parts.mapping).parent / "fingerprint.json")
    marks = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    return hashlib.sha256(json.dumps([parts.to_json(), marks, more], sort_keys=True, default=str).encode()).hexdigest()[
        :16
    ]


def model_solver(title: str, parts: ModelParts, prompt: str | None, device: torch.device) -> Solver:
    """One model, asked by a template (by default the one it was trained with)."""
    model, encoder_tokenizer = assemble(parts, device)
    name = prompt or parts.prompt or DEFAULT_PROMPT
    lm = model.language_model
    tokenize = ExampleTokenizer(lm.tokenizer, lm.specials, template(name), _limits(model), encoder_tokenizer)
    return Solver(title, _fingerprint(parts, name), [tokenize], ModelStepper(model), ending(lm, ()), lm.context_length)


def proxy_solver(
    title: str,
    base: ModelParts,
    expert: ModelParts,
    antiexpert: ModelParts,
    alpha: float,
    device: torch.device,
    prompts: tuple[str | None, str | None, str | None] = (None, None, None),
    chat_template: bool = False,
) -> Solver:
    """base + alpha (expert - anti-expert). With `chat_template` the expert reads its own chat format.

    Raises UserError when vocabularies differ or the expert is the anti-expert.
    """
    if expert.language_model.path == antiexpert.language_model.path and expert.mapping == antiexpert.mapping:
        raise UserError(
            f"expert and anti-expert are the same model ({expert.language_model.path}): their difference is zero"
        )
    parts = (base, expert, antiexpert)
    models = [assemble(part, device) for part in parts]
    lms = [model.language_model for model, _ in models]
    for lm, what in zip(lms[1:], ("expert", "anti-expert"), strict=True):
        require_same_vocabulary(lms[0].tokenizer, lm.tokenizer, what)
        if lm.specials.eos != lms[0].specials.eos:
            raise UserError(
                f"base and {what} end text with different tokens ({lms[0].specials.eos}, {lm.specials.eos}): set eos_token"
            )
    default = prompts[0] or base.prompt or DEFAULT_PROMPT
    names = [prompt or part.prompt or default for prompt, part in zip(prompts, parts, strict=True)]
    tokenizers = []
    for k, ((model, encoder_tokenizer), name) in enumerate(zip(models, names, strict=True)):
        asked = _chat(template(name), lms[k].tokenizer) if chat_template and k == 1 else template(name)
        tokenizers.append(ExampleTokenizer(lms[k].tokenizer, lms[k].specials, asked, _limits(model), encoder_tokenizer))
    stepper = ProxyStepper([ModelStepper(model) for model, _ in models], alpha)
    prints = [_fingerprint(part, name) for part, name in zip(parts, names, strict=True)]
    context = min(lm.context_length for lm in lms)
    return Solver(
        title, _fingerprint(base, prints, alpha, chat_template), tokenizers, stepper, ending(lms[0], ()), context
    )


def _chat(plain: Template, tokenizer: object) -> Template:
    """The same template inside the tokenizer's own chat format."""
    from dataclasses import replace

    from mmscale.data.prompts import Prompt
    from mmscale.data.records import Record

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
