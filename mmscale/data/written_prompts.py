"""Prompts that a configuration writes down, as templates like the built-in ones.

A Jinja template is rendered in an immutable sandbox, and may hold only what its length bounds: texts, variables, conditions, `~`, some filters,
and loops over `choices`, two deep. It calls nothing, sets nothing and multiplies nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mmscale import registry
from mmscale.config.prompt import PromptConfig, written
from mmscale.data.exemplars import few_shot, question_labels
from mmscale.data.phrases import mcot_prompt
from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem, Record
from mmscale.data.template import Prompt, Template, expect, of_translation
from mmscale.errors import UserError
from mmscale.languages import language

PLAIN = "question"
"""The prompt of a written one that says nothing of its own."""
MOST_RENDERED = 1 << 20
"""Characters of a rendered template."""
_OF_TRANSLATION = frozenset({"translation", "translation_language", "hypothesis_translation"})
_LOOPS = 2
_FILTERS = ("upper", "lower", "title", "capitalize", "trim", "join", "length", "first", "last", "string", "default")
_ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem, nodes.Filter,
    nodes.For, nodes.If, nodes.CondExpr, nodes.Compare, nodes.Operand, nodes.Concat, nodes.And, nodes.Or, nodes.Not,
    nodes.Add, nodes.Tuple, nodes.List,
)  # fmt: skip
_KINDS: dict[str, type[Record]] = {
    "problem": Problem,
    "parallel": ParallelSentence,
    "choice": MultipleChoice,
    "entailment": Entailment,
}


def _shown(record: Record) -> dict[str, Any]:
    """What a template of a prompt may say of a record; its gold is not among it."""
    values: dict[str, Any] = {"language": record.language, "language_name": language(record.language).name}
    if record.translation is not None:
        values |= _shown_of_translation(record.translated)
    if isinstance(record, MultipleChoice):
        choices = [{"label": label, "text": text} for label, text in record.choices]
        for choice, text in zip(choices, record.translation.texts[1:] if record.translation else (), strict=False):
            choice["translation"] = text
        return values | {"question": record.question, "choices": choices, "relation": record.relation}
    if isinstance(record, Entailment):
        return values | {"premise": record.premise, "hypothesis": record.hypothesis}
    if isinstance(record, ParallelSentence):
        target = language(record.target_language)
        return values | {"source": record.source, "target_language": target.code, "target_language_name": target.name}
    return values | {"question": record.text}


def _shown_of_translation(other: Record) -> dict[str, Any]:
    """What a template may say of a record's translation, its choices left out."""
    values = {"translation": other.text, "translation_language": other.language}
    return values | ({"hypothesis_translation": other.hypothesis} if isinstance(other, Entailment) else {})


def _names_translation(source: str) -> bool:
    """Whether a Jinja template says a variable, or a choice's part, that a translation gives."""
    _compiled(source)
    tree = _Environment().parse(source)
    said = [node.name for node in tree.find_all(nodes.Name)] + [node.attr for node in tree.find_all(nodes.Getattr)]
    said += [node.arg.value for node in tree.find_all(nodes.Getitem) if isinstance(node.arg, nodes.Const)]
    return not _OF_TRANSLATION.isdisjoint(said)


def reads_translation(config: PromptConfig) -> bool:
    """Whether a written prompt shows a translation of what is asked."""
    if config.shows == "translation":
        return True
    if config.name is not None:
        named: Template = registry.get("prompts", config.name)
        return named.reads_translation
    return any(_names_translation(source) for source in (config.template, config.target) if source is not None)


def _known(record: Record) -> dict[str, Any]:
    """What a template of a target may say beside."""
    values = _shown(record)
    if isinstance(record, MultipleChoice):
        return values | {"answer": record.answer, "chosen": record.chosen}
    if isinstance(record, Entailment):
        return values | {"label": record.label, "answer": record.label}
    if isinstance(record, ParallelSentence):
        return values | {"target": record.target}
    return values | {"answer": record.gold, "rationale": expect(Problem, record).rationale}


def _usual_target(record: Record) -> str:
    return expect(Problem, record).rationale if isinstance(record, Problem) else record.gold


class _Environment(ImmutableSandboxedEnvironment):
    """Immutable, with the filters that a length bounds."""

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
        self.filters = {name: self.filters[name] for name in _FILTERS}
        self.globals = {}


def _check(node: nodes.Node, source: str, loops: int = 0) -> None:
    """UserError naming what a template may not hold."""
    if isinstance(node, nodes.For):
        loops += 1
        over = isinstance(node.iter, nodes.Name) and node.iter.name == "choices"
        if not over or loops > _LOOPS or node.recursive:
            raise UserError(
                f"prompt template {source!r:.60}: a loop goes over choices, at most {_LOOPS} deep: take it out"
            )
    if not isinstance(node, _ALLOWED) or (isinstance(node, nodes.Filter) and node.name not in _FILTERS):
        what = f"filter {node.name}" if isinstance(node, nodes.Filter) else type(node).__name__.lower()
        raise UserError(
            f"prompt template {source!r:.60} holds a {what}, which none may: texts, variables, conditions, loops over choices and "
            f"the filters {', '.join(_FILTERS)} are what there is"
        )
    for below in node.iter_child_nodes():
        _check(below, source, loops)


@functools.lru_cache(maxsize=64)
def _compiled(source: str) -> jinja2.Template:
    environment = _Environment()
    try:
        _check(environment.parse(source), source)
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise UserError(f"prompt template {source!r:.60} is no Jinja template ({error}): correct it") from error


def _render(source: str, values: dict[str, Any], record: Record) -> str:
    """UserError where a record lacks what a template says, or the text becomes too long."""
    try:
        return "".join(_bounded(_compiled(source).generate(values), record))
    except (jinja2.TemplateError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"{record.origin}: prompt template {source!r:.60}: {error}; of such a record it may say {', '.join(values)}"
        ) from error


def _bounded(parts: Iterator[str], record: Record) -> Iterator[str]:
    total = 0
    for part in parts:
        total += len(part)
        if total > MOST_RENDERED:
            raise UserError(
                f"{record.origin}: the prompt template makes more than {MOST_RENDERED} characters: shorten it"
            )
        yield part


def _jinja_prompt(source: str) -> Callable[[Record], Prompt]:
    def prompt(record: Record) -> Prompt:
        whole = _render(source, _shown(record), record)
        if whole.count(record.text) != 1:
            return Prompt(whole, "", "")
        before, after = whole.split(record.text)
        return Prompt(before, record.text, after)

    return prompt


def _around(before: str, after: str) -> Callable[[Record], Prompt]:
    return lambda record: Prompt(before, record.text, after)


def _few_shot_prompt(config: PromptConfig) -> Callable[[Record], Prompt]:
    def prompt(record: Record) -> Prompt:
        before, after, _ = few_shot(str(config.exemplars), record.language, config.exemplars_form, config.shots)
        return Prompt(before, record.text, after)

    return prompt


def _few_shot_target(config: PromptConfig) -> Callable[[Record], str]:
    def target(record: Record) -> str:
        _, _, spaced = few_shot(str(config.exemplars), record.language, config.exemplars_form, config.shots)
        return (" " if spaced else "") + _usual_target(record)

    return target


def template_of(name: str) -> Template:
    """The template that a written prompt's name says; UserError where it is none, or its exemplars are not there."""
    config = written(name)
    plain = _plain(config)
    if config.shows == "translation":
        if plain.reads_translation:
            raise UserError("prompt: it shows a translation beside the question already: take shows: translation out")
        plain = of_translation(plain)
    return _dressed(plain.with_changes(reads_translation=reads_translation(config)), config)


def _plain(config: PromptConfig) -> Template:
    if config.exemplars is not None:
        # its labels say where a model has gone on to a problem of its own
        stop = tuple(f"\n{label}" for label in question_labels(config.exemplars))
        return Template(prompt=_few_shot_prompt(config), target=_few_shot_target(config), stop=stop, reads=Problem)
    reads = _KINDS[config.reads or "problem"]
    target = _usual_target if config.target is None else _jinja_target(config.target)
    if config.template is not None:
        _compiled(config.template)
        return Template(prompt=_jinja_prompt(config.template), target=target, joined=config.joined, reads=reads)
    if config.before is not None or config.after is not None:
        around = _around(config.before or "", config.after or "")
        return Template(prompt=around, target=target, joined=config.joined, reads=reads)
    named: Template = registry.get("prompts", config.name or PLAIN)
    return named.with_changes(prompt=mcot_prompt(config.phrases)) if config.phrases else named


def _jinja_target(source: str) -> Callable[[Record], str]:
    _compiled(source)
    return lambda record: _render(source, _known(record), record)


def _dressed(plain: Template, config: PromptConfig) -> Template:
    return plain.with_changes(
        stop=(*plain.stop, *config.stop),
        chat=config.chat,
        response_prefix=config.response_prefix,
        described="of this configuration" if config.name is None else "",
    )
