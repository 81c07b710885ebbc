"""The one registry: everything that a user calls by name, built in or from another package.

A name stands for "module:attribute", imported when it is asked for and not before, or for a file of configs/tasks, read then. Another
package adds names through
entry points of the group `mmscale.KIND` (docs/extending.md); `mmscale list` shows all of them.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import importlib.util
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mmscale.errors import UserError, unknown_name


@dataclass(frozen=True)
class Kind:
    """One kind of named thing."""

    noun: str
    """What one of them is called in a sentence."""
    type: str
    """The class of them, or the class of which they are subclasses; "" where any callable will do."""
    built_in: dict[str, str]
    read: str = ""
    """What reads a file that a built-in name stands for."""


_SOURCES = (
    "afrimgsm", "afrixnli", "bilingual_pairs", "bitext", "corpus", "gsm8k", "gsm8kinstruct", "gsmtrans", "mathinstruct", "mcot_math", "metamath", "mgsm",
    "msvamp", "query_translation", "svamp", "table", "tinyworld", "xcopa", "xcsqa", "xnli",
)  # fmt: skip
_PROMPTS = (
    "question_translation", "question_translation_published", "alpaca", "alpaca_program", "mapping", "mindmerger_math",
    "langbridge", "xcsqa", "xnli", "xcopa", "xcsqa_text", "xcopa_text", "mcot", "proxy_gsm", "tinyworld_math", "tinyworld_program",
    "tinyworld_translation", "question", "document", "replacement",
    "mindmerger_hard", "translate_test", "tinyworld_hard", "tinyworld_translate_test",
)  # fmt: skip
_FILTERS = (
    "untranslated", "leaked_solution", "repetition_loop", "foreign_script", "other_language_rationale", "native_digits",
    "not_nfc", "digits_differ", "no_gold", "gold_not_numeric", "empty_option", "corrupt_relation", "wrong_gold",
    "ill_posed", "duplicate_question", "conflicting_answers",
)  # fmt: skip
_METHODS = (
    "question_alignment", "mindmerger", "multilingual_cot", "langbridge", "layalign", "mindmerger_hard", "translate_test",
)  # fmt: skip
_TASKS = Path(str(resources.files("mmscale.configs"))) / "tasks"
_CHECKS = {
    "numbers": "numbers:CHECK",
    "final_answer": "final_answer:CHECK",
    "equations": "equations:CHECK",
    "language": "language:LANGUAGE",
    "script": "language:SCRIPT",
    "untranslated": "untranslated:CHECK",
    "length_ratio": "of_all_rows:LENGTH_RATIO",
    "repetition": "repetition:CHECK",
    "leaked_solution": "leaked_solution:CHECK",
    "truncated": "truncated:CHECK",
    "marks": "marks:CHECK",
    "duplicate": "of_all_rows:DUPLICATE",
    "near_duplicate": "of_all_rows:NEAR_DUPLICATE",
    "merged_questions": "of_all_rows:MERGED_QUESTIONS",
    "overlap": "overlap:CHECK",
    "back_translation": "back_translation:CHECK",
}
_RULES = {
    "default": "locale_aware",
    "last_number": "last_number",
    "mcot": "mcot",
    "proxy_gsm": "proxy_gsm",
    "exact": "exact",
    "program": "program",
}

KINDS: dict[str, Kind] = {
    "sources": Kind(
        "data source",
        "mmscale.data.sources.base:Source",
        {name: f"mmscale.data.sources.{name}:SOURCE" for name in _SOURCES},
    ),
    "prompts": Kind(
        "prompt", "mmscale.data.prompts:Template", {name: f"mmscale.data.prompts:{name.upper()}" for name in _PROMPTS}
    ),
    "filters": Kind("filter", "", {name: f"mmscale.data.filters:{name}" for name in _FILTERS}),
    "checks": Kind(
        "check",
        "mmscale.corpus.checks.base:Check",
        {name: f"mmscale.corpus.checks.{target}" for name, target in _CHECKS.items()},
    ),
    "rules": Kind(
        "rule",
        "mmscale.evaluation.answers.base:Rule",
        {name: f"mmscale.evaluation.answers.{module}:RULE" for name, module in _RULES.items()},
    ),
    "encoders": Kind(
        "encoder family",
        "mmscale.models.encoders.base:Family",
        {name: f"mmscale.models.encoders.{name}:FAMILY" for name in ("t5", "m2m100", "xlm_roberta", "decoder")},
    ),
    "connectors": Kind(
        "connector",
        "mmscale.models.connectors.base:ConnectorKind",
        {
            "mlp": "mmscale.models.connectors.mlp:CONNECTOR",
            "linear": "mmscale.models.connectors.layers:LINEAR",
            "mlp3": "mmscale.models.connectors.layers:MLP3",
            "qformer": "mmscale.models.connectors.qformer:CONNECTOR",
            "langbridge": "mmscale.models.connectors.layers:LANGBRIDGE",
            "layalign": "mmscale.models.connectors.layalign:CONNECTOR",
        },
    ),
    "methods": Kind(
        "method",
        "mmscale.methods.base:Method",
        {name: f"mmscale.methods.{name}:METHOD" for name in _METHODS},
    ),
    "tasks": Kind(
        "task",
        "mmscale.config.evaluation:TaskConfig",
        {file.stem: str(file) for file in sorted(_TASKS.glob("*.yaml"))},
        read="mmscale.config.evaluation:read_task",
    ),
    "answerers": Kind("answerer", "", {"local": "mmscale.answering.local:local_answerer"}),
    "translators": Kind(
        "translator",
        "",
        {
            "ctranslate2": "mmscale.corpus.translators.ctranslate2:CTranslate2Translator",
            "transformers": "mmscale.corpus.translators.transformers:TransformersTranslator",
            "openai": "mmscale.corpus.translators.endpoint:EndpointTranslator",
            "model": "mmscale.corpus.translators.model:ModelTranslator",
        },
    ),
    "trackers": Kind(
        "tracker",
        "",
        {"jsonl": "mmscale.training.metrics:Metrics", "tensorboard": "mmscale.training.metrics:TensorBoard"},
    ),
}


def kind_of(name: str) -> Kind:
    """The kind of that name; UserError naming the nearest when there is none."""
    if name not in KINDS:
        raise unknown_name("kind of named thing", name, KINDS)
    return KINDS[name]


@functools.cache
def _added(kind: str) -> dict[str, tuple[EntryPoint, ...]]:
    """What other packages add: name -> its entry points, several where packages do not know of each other."""
    points: dict[str, tuple[EntryPoint, ...]] = {}
    for point in sorted(entry_points(group=f"mmscale.{kind}"), key=lambda point: (point.name, point.value)):
        points[point.name] = (*points.get(point.name, ()), point)
    return points


def names(kind: str) -> list[str]:
    """Every name of a kind, those of other packages last."""
    return list(dict.fromkeys([*kind_of(kind).built_in, *_added(kind)]))


def listed(kind: str) -> str:
    """Every name of a kind, as a help text names them."""
    return ", ".join(names(kind))


def require(kind: str, name: str) -> None:
    """UserError naming the nearest when there is no such name; nothing is imported."""
    if name not in kind_of(kind).built_in and name not in _added(kind):
        raise unknown_name(kind_of(kind).noun, name, names(kind))


@functools.cache
def get(kind: str, name: str) -> Any:
    """What a name stands for.

    UserError when there is no such name, when two packages claim it, and when the package that adds it is broken.
    """
    require(kind, name)
    added, target = _added(kind).get(name, ()), kind_of(kind).built_in.get(name)
    if len(added) + (target is not None) > 1:
        raise _registered_twice(kind, name)
    if target is not None:
        reader = kind_of(kind).read
        return _import(reader)(Path(target)) if reader else _import(target)
    return _load(kind, added[0])


def name_of(kind: str, value: Any) -> str | None:
    """The name that a built-in thing has."""
    return next((name for name in kind_of(kind).built_in if get(kind, name) is value), None)


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _registered_twice(kind: str, name: str) -> UserError:
    owners = [_package(point) for point in _added(kind)[name]]
    owners = ["mmscale itself", *owners] if name in kind_of(kind).built_in else owners
    return UserError(
        f"{kind_of(kind).noun} '{name}' is registered twice, by {' and by '.join(owners)}: uninstall one of them, or rename "
        f"its entry point"
    )


def _package(point: EntryPoint) -> str:
    return f"package '{point.dist.name}'" if point.dist is not None else f"'{point.value}'"


def _load(kind: str, point: EntryPoint) -> Any:
    """What an entry point stands for; UserError that names its package where it cannot be imported or is something else."""
    what = f"{kind_of(kind).noun} '{point.name}' of {_package(point)}"
    try:
        value = point.load()
    except Exception as error:  # whatever a module does when it is imported
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{what} cannot be loaded from {point.value} ({type(error).__name__}: {reason:.200}): mend or uninstall that package"
        ) from error
    wanted = kind_of(kind).type
    fits = isinstance(value, _import(wanted)) if wanted else callable(value)
    if not fits:
        expected = wanted.replace(":", ".") if wanted else "something that can be called"
        raise UserError(f"{what} is a {type(value).__name__} and should be {expected}: correct {point.value}")
    if getattr(value, "name", point.name) != point.name:
        raise UserError(f"{what} calls itself '{value.name}': give its entry point that name")
    return value


@dataclass(frozen=True)
class Entry:
    """One line of `mmscale list`."""

    name: str
    summary: str
    package: str | None = None
    """The package that adds it; None of what is built in."""
    problem: str | None = None
    """Why it cannot be used."""


def entries(kind: str) -> Iterator[Entry]:
    """What there is of a kind, told without importing anything built in; only what other packages add is tried."""
    chosen = kind_of(kind)
    for name in names(kind):
        added, target = _added(kind).get(name, ()), chosen.built_in.get(name)
        package = None if target or added[0].dist is None else added[0].dist.name
        summary, problem = _summary(target or added[0].value), None
        if added:
            try:
                get(kind, name)
            except UserError as error:
                problem = str(error)
        yield Entry(name, summary, package, problem)


def _summary(target: str) -> str:
    """The first sentence of what a target's docstring says, else its module's; read from the file, nothing is run. Of a YAML file
    the first line, a comment."""
    if target.endswith(".yaml"):
        with open(target, encoding="utf-8") as lines:
            return lines.readline().strip("# \n")
    module, _, attribute = target.partition(":")
    file = _file_of(module)
    if file is None:
        return ""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):  # of another package: loading it says why
        return ""
    return _first_sentence(_docstring(tree, attribute) or ast.get_docstring(tree) or "")


def _file_of(module: str) -> Path | None:
    """The file of a module, found without importing the packages it is in."""
    first, *rest = module.split(".")
    spec = importlib.util.find_spec(first)
    for i in range(len(rest)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = ".".join([first, *rest[: i + 1]])
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def _docstring(tree: ast.Module, name: str) -> str | None:
    """That of a class or function, or the text that stands below an assignment."""
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return ast.get_docstring(node)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            text = below.value if isinstance(below, ast.Expr) else None
            return text.value if isinstance(text, ast.Constant) and isinstance(text.value, str) else None
    return None


def _first_sentence(text: str) -> str:
    """On one line; a full stop before a capital letter ends it, "et al. 2024" does not."""
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    return re.split(r"(?<=[.])\s+(?=[A-Z])", paragraph)[0].rstrip(".")
