r"""Prompt templates by name, byte for byte as the authors' released models expect them.

A template says how a record becomes text: what stands before the part that may be cut, that part, and
what stands after it; the target; and what a multilingual encoder reads. A new one is an attribute here, with a sentence
about it, and its name in mmscale/registry.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mmscale import registry
from mmscale.config.prompt import is_written, written
from mmscale.data.phrases import mcot_prompt
from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem, Record
from mmscale.data.template import Prompt, Template, expect, of_translation
from mmscale.data.written_prompts import reads_translation as reads_translation_as_written
from mmscale.data.written_prompts import template_of
from mmscale.errors import UserError
from mmscale.languages import language
from mmscale.storage.files import digest
from mmscale.storage.reading import existing_file, read_text

# Stanford Alpaca's template without input; used by QAlign, MindMerger and MetaMath alike.
ALPACA_BEFORE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n### Instruction:\n"
)
ALPACA_AFTER = "\n\n### Response:"


def _rationale(record: Record) -> str:
    return expect(Problem, record).rationale


_ISO_NAMES = {"el": "Modern Greek (1453-)", "sw": "Swahili (macrolanguage)"}
"""What the package iso-639 0.4.5, which QAlign's code asks, calls languages otherwise."""


def _translation(record: Record, names: dict[str, str] | None = None) -> Prompt:
    pair = expect(ParallelSentence, record)
    source, target = (
        (names or {}).get(code, language(code).name) for code in (pair.source_language, pair.target_language)
    )
    before = ALPACA_BEFORE + f"Translate the following sentences from {source} to {target}. "
    return Prompt(before, pair.source, ALPACA_AFTER)


def _published_translation(record: Record) -> Prompt:
    return _translation(record, _ISO_NAMES)


def _xcsqa(record: Record) -> Prompt:
    choice = expect(MultipleChoice, record)
    options = "\t".join(f"{label}. {text}" for label, text in choice.choices)
    return Prompt("", choice.question, f"\nOptions:{options}\nAnswer:")


def _xnli(record: Record) -> Prompt:
    pair = expect(Entailment, record)
    return Prompt("Premise: ", pair.premise, f"\nHypothesis: {pair.hypothesis}\nLabel:")


def _xcopa(record: Record) -> Prompt:
    choice = expect(MultipleChoice, record)
    options = "\n".join(f"{label}. {text}" for label, text in choice.choices)
    return Prompt("", choice.question, f"\n{_asked_of_cause(choice)}\n{options}\nAnswer:")


def _xcopa_open(record: Record) -> Prompt:
    choice = expect(MultipleChoice, record)
    return Prompt("", choice.question, f"\n{_asked_of_cause(choice)}\nAnswer:")


def _asked_of_cause(choice: MultipleChoice) -> str:
    return "What was the cause?" if choice.relation == "cause" else "What happened as a result?"


def _around(before: str, after: str) -> Callable[[Record], Prompt]:
    return lambda record: Prompt(before, record.text, after)


def _beside_translation(before: str, after: str) -> Callable[[Record], Prompt]:
    """The question and its translation below it; a question that is in the translation's language already is shown once."""

    def prompt(record: Record) -> Prompt:
        other = record.translated
        if other.language == record.language:
            return Prompt(before, record.text, after)
        return Prompt(before, record.text, f"\n{language(other.language).name} translation: {other.text}{after}")

    return prompt


def _nothing(record: Record) -> Prompt:
    return Prompt("", "", "")


def _other_side(record: Record) -> str:
    return expect(ParallelSentence, record).target


def _chosen_label(record: Record) -> str:
    return expect(MultipleChoice, record).answer


def _chosen_text(record: Record) -> str:
    return " " + expect(MultipleChoice, record).chosen


def _full_text(render: Callable[[Record], Prompt]) -> Callable[[Record], str]:
    return lambda record: render(record).text


# Question alignment (Zhu et al. 2024), stages I and II; decoding uses the second.
QUESTION_TRANSLATION = Template(prompt=_translation, target=_other_side, reads=ParallelSentence)
"""Question alignment, stage I: translate the question into English, in the Alpaca template."""
QUESTION_TRANSLATION_PUBLISHED = Template(prompt=_published_translation, target=_other_side, reads=ParallelSentence)
"""The same with the language names of the authors' code ("Swahili (macrolanguage)")."""
ALPACA = Template(prompt=_around(ALPACA_BEFORE, ALPACA_AFTER), target=_rationale)
"""Stanford Alpaca's template without input: question alignment, stage II."""
# Program of thought, as MAmmoTH (Yue et al. 2023) and MathOctopus ask for it: MathInstruct's programs are trained with ALPACA, since
# their instructions ask for a program already.
ALPACA_PROGRAM = Template(prompt=_around(ALPACA_BEFORE, " Let's write a program." + ALPACA_AFTER), target=_rationale)
"""The Alpaca template with "Let's write a program." behind the question, for program of thought."""
# MindMerger (Huang et al. 2024): mapping stage without prompt, then one prompt a task.
MAPPING = Template(prompt=_nothing, target=_other_side, joined=False, reads=ParallelSentence)
"""MindMerger, stage I: no text before the target, the encoder alone reads the question."""
MINDMERGER_MATH = Template(
    prompt=_around(ALPACA_BEFORE, ALPACA_AFTER + " Let's think step by step."), target=_rationale, joined=False
)
"""MindMerger, stage II, on word problems: the Alpaca template and "Let's think step by step."."""
MINDMERGER_HARD = Template(
    prompt=_beside_translation(ALPACA_BEFORE, ALPACA_AFTER + " Let's think step by step."),
    target=_rationale,
    joined=False,
    reads_translation=True,
)
"""MindMerger-Hard on word problems: the same, a translation of the question as text below it."""
TRANSLATE_TEST = of_translation(MINDMERGER_MATH)
"""Translate-test on word problems: the same prompt around a translation, which stands in the question's place."""
REPLACEMENT = Template(prompt=_nothing, target=_rationale, joined=False)
"""MindMerger's ablation of its augmentation: the encoder alone reads the question, the LLM no text."""
# LangBridge (Yoon et al. 2024): the encoder alone reads, its text that of the Alpaca prompt.
LANGBRIDGE = Template(
    prompt=_nothing,
    target=_rationale,
    joined=False,
    encoder_text=_full_text(_around(ALPACA_BEFORE, ALPACA_AFTER + "\n")),
)
"""LangBridge: the encoder alone reads, its text the Alpaca prompt."""
XCSQA = Template(
    prompt=_xcsqa, target=_chosen_label, joined=False, encoder_text=_full_text(_xcsqa), reads=MultipleChoice
)
"""MindMerger on X-CSQA: the question with its options, answered by a label."""
XNLI = Template(
    prompt=_xnli,
    target=lambda r: expect(Entailment, r).label,
    joined=False,
    encoder_text=_full_text(_xnli),
    reads=Entailment,
)
"""MindMerger on XNLI: premise and hypothesis, answered by a label."""
XCOPA = Template(
    prompt=_xcopa, target=_chosen_label, joined=False, encoder_text=_full_text(_xcopa), reads=MultipleChoice
)
"""XCOPA: a premise, what is asked about it and two options, answered by a label."""
XCSQA_TEXT = Template(prompt=_around("Question: ", "\nAnswer:"), target=_chosen_text, reads=MultipleChoice)
"""A question without its options, answered by the text of one: what log-likelihoods choose among."""
XCOPA_TEXT = Template(prompt=_xcopa_open, target=_chosen_text, reads=MultipleChoice)
"""XCOPA's premise and what is asked about it, answered by the text of an option: what log-likelihoods choose among."""
# mCoT (Lai & Nissim 2024).
MCOT = Template(prompt=mcot_prompt(), target=_rationale)
"""Multilingual CoT: the question, then "let's think step by step" in its language."""
# Proxy-tuning's GSM prompt (Liu et al. 2024) and the texts at which its outputs are cut.
PROXY_GSM = Template(
    prompt=_around("Answer the following question.\n\nQuestion: ", "\nAnswer:"),
    target=_rationale,
    stop=("Answer the following question", "Question:", "Comment:"),
)
"""Proxy-tuning on GSM: "Answer the following question."."""
# tinyworld: the same roles in few tokens.
TINYWORLD_MATH = Template(prompt=_around("Q: ", "\nA:"), target=lambda r: " " + _rationale(r))
"""The embedded models on word problems: "Q: ... A:"."""
TINYWORLD_HARD = Template(
    prompt=_beside_translation("Q: ", "\nA:"), target=lambda r: " " + _rationale(r), reads_translation=True
)
"""The embedded models on word problems, a translation below each."""
TINYWORLD_TRANSLATE_TEST = of_translation(TINYWORLD_MATH)
"""The embedded models on word problems' translations."""
TINYWORLD_PROGRAM = Template(prompt=_around("Q: ", "\nProgram:"), target=lambda r: "\n" + _rationale(r))
"""The embedded models on word problems, answered by a program: "Q: ... Program:"."""
TINYWORLD_TRANSLATION = Template(
    prompt=_around("Q: ", "\nEnglish:"), target=lambda r: " " + _other_side(r), reads=ParallelSentence
)
"""The embedded models translating a question: "Q: ... English:"."""
QUESTION = Template(prompt=_around("", ""), target=_rationale)
"""The question alone: what a chat format is laid around."""
ALPACA_FAMILY = (ALPACA, MINDMERGER_MATH, MINDMERGER_HARD, TRANSLATE_TEST)
"""What a model that was tuned on conversations was hardly tuned on."""
DOCUMENT = Template(prompt=_nothing, target=_other_side, reads=ParallelSentence)
"""Plain text without a prompt, for training a language model."""


def template(name: str) -> Template:
    """The template of a name; UserError naming the nearest when there is none."""
    if is_written(name):
        return template_of(name)
    chosen: Template = registry.get("prompts", name)
    return chosen


def reads_translation(name: str) -> bool:
    """Whether the template of a name shows a translation of what is asked; no file that it may name is read."""
    return reads_translation_as_written(written(name)) if is_written(name) else template(name).reads_translation


def identity(name: str) -> list[str]:
    """What tells a prompt from every other: its name, and of one that reads a file the file's digest."""
    file = written(name).exemplars if is_written(name) else None
    return (
        [name]
        if file is None
        else [name, digest(read_text(existing_file(Path(file).expanduser(), "exemplars of MGSM")))]
    )


_KINDS: dict[type[Record], str] = {
    Problem: "word problems",
    ParallelSentence: "sentence pairs",
    MultipleChoice: "multiple-choice questions",
    Entailment: "entailment pairs",
}


def require_readable(chosen: Template, records: Sequence[Record]) -> None:
    """UserError naming the first record of another kind than a template reads, and the templates for it."""
    for record in records:
        if type(record) is not chosen.reads:
            fitting = [name for name in registry.KINDS["prompts"].built_in if template(name).reads is type(record)]
            own = registry.name_of("prompts", chosen) or chosen.described or "of another package"
            raise UserError(
                f"{record.origin}: prompt {own} reads {_KINDS[chosen.reads]}, and these are {_KINDS[type(record)]}, of which it would leave "
                f"something out: choose {', '.join(fitting)}"
            )


def require_translated(chosen: Template, records: Sequence[Record]) -> None:
    """UserError naming the first record without a translation where a template shows one."""
    for record in records if chosen.reads_translation else ():
        if record.translation is None:
            raise untranslated(
                record.origin, registry.name_of("prompts", chosen) or chosen.described or "of another package"
            )


def untranslated(where: str, prompt: str) -> UserError:
    """That a prompt shows translations of what there are none of."""
    return UserError(
        f"{where}: prompt {prompt} reads a translation of the question, and there is none: name a translator in the data set, "
        f"translation: {{path: MODEL}}, or choose another prompt"
    )
