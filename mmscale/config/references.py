"""What one part of a run's configuration says of another: stages of recipes, tasks, the proxy's expert.

Checked on the values as they are written, so that these mistakes are told together with those of single values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import InitErrorDetails, PydanticCustomError

from mmscale import registry
from mmscale.config.evaluation import named_tasks
from mmscale.config.variants import VariantConfig, as_variant
from mmscale.errors import UserError, unknown_name
from mmscale.storage.reading import KeyPath

_OF_A_RUN = re.compile(r"base|proxy_.*")
"""Names of models that every run may have."""
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def wrong_references(values: Any) -> list[InitErrorDetails]:
    """The mistakes, as pydantic collects them."""
    return [
        InitErrorDetails(type=PydanticCustomError("value_error", "{reason}", {"reason": reason}), loc=path, input=None)
        for path, reason in (*_of_recipes(values), *_of_proxy(values))
    ]


def _in(node: Any, *path: str) -> Any:
    """What stands under a path of keys; None where nothing does."""
    for part in path:
        node = (
            getattr(node, part, None)
            if isinstance(node, BaseModel)
            else node.get(part)
            if isinstance(node, dict)
            else None
        )
    return node


def _keys(node: Any) -> list[str]:
    return [key for key in node if isinstance(key, str)] if isinstance(node, dict) else []


def _tasks(values: Any) -> list[str]:
    """Names of the tasks, however they are given; none where that is wrong, which is told elsewhere."""
    try:
        return _keys(named_tasks(_in(values, "evaluation", "tasks")))
    except UserError:
        return []


def _of_recipes(values: Any) -> Iterator[tuple[KeyPath, str]]:
    recipes, tasks = _in(values, "recipes"), _tasks(values)
    asked = _in(values, "methods")
    asked = [name for name in asked if isinstance(name, str)] if isinstance(asked, (list, tuple)) else []
    variants = _keys(_in(values, "variants"))
    yield from _of_variants(values, variants)
    for place, name in [("recipes", name) for name in _keys(recipes)] + [("methods", name) for name in asked]:
        if name not in registry.names("methods") and name not in variants:
            yield (
                (place, name if place == "recipes" else asked.index(name)),
                str(unknown_name("method", name, [*registry.names("methods"), *variants])),
            )
    for method in dict.fromkeys([*_keys(recipes), *asked]):
        if method not in registry.names("methods") and method not in variants:
            continue  # told above
        try:
            stages = _stages(values, method)
        except UserError as error:
            yield ("recipes", method), str(error)
            continue
        if stages is None:
            continue  # a variant that is wrong in itself
        given = _keys(_in(recipes, method))
        for stage in given:
            path = ("recipes", method, stage)
            if stage not in stages:
                yield path, str(unknown_name(f"stage of {method}", stage, stages))
            task = _in(recipes, method, stage, "evaluate_task")
            if isinstance(task, str) and task not in tasks:
                yield (*path, "evaluate_task"), str(unknown_name("task of this configuration", task, tasks))
        if method in asked:
            yield from _unfilled(recipes, method, stages)


def _stages(values: Any, name: str) -> list[str] | None:
    """Names of the stages of a method or variant; None where a variant cannot be read."""
    variant = _in(values, "variants", name)
    if variant is None:
        return [stage.name for stage in registry.get("methods", name).stages]
    read = as_variant(variant)
    if read is None:
        return None
    return list(read.stages) or [stage.name for stage in registry.get("methods", read.method).stages]


def _of_variants(values: Any, names: list[str]) -> Iterator[tuple[KeyPath, str]]:
    for name in names:
        path = ("variants", name)
        if name in registry.names("methods") or _OF_A_RUN.fullmatch(name):
            yield path, f"{name} is the name of something else: choose another for this variant"
        variant = as_variant(_in(values, *path))
        for own in (name, *(variant.stages if variant else ())):
            if not _NAME.fullmatch(own):
                yield path, f"{own!r:.60} is no name for a folder: use letters, digits, _ and -"
        if variant is not None:
            yield from (((*path, "stages"), problem) for problem in _wrong_stages(variant))


def _wrong_stages(variant: VariantConfig) -> Iterator[str]:
    for method, stage in map(variant.reference, variant.stages):
        if method not in registry.names("methods"):
            yield str(unknown_name("method", method, registry.names("methods")))
            continue
        known = [spec.name for spec in registry.get("methods", method).stages]
        if stage not in known:
            yield str(unknown_name(f"stage of {method}", stage, known))


def _unfilled(recipes: Any, method: str, stages: list[str]) -> Iterator[tuple[KeyPath, str]]:
    for stage in stages:
        given = _in(recipes, method, stage)
        if given is None:
            yield ("recipes", method, stage), "is missing: give the stage its data and steps or epochs"
        elif not _in(given, "data") and isinstance(given, (dict, BaseModel)):
            yield ("recipes", method, stage, "data"), "is empty: name at least one data set"


def _of_proxy(values: Any) -> Iterator[tuple[KeyPath, str]]:
    expert, tasks = _in(values, "proxy", "expert"), _in(values, "proxy", "tasks")
    recipes, known = _keys(_in(values, "recipes")), _tasks(values)
    if isinstance(expert, str) and expert not in recipes:
        yield ("proxy", "expert"), str(unknown_name("method of this configuration", expert, recipes))
    for i, task in enumerate(tasks if isinstance(tasks, (list, tuple)) else ()):
        if isinstance(task, str) and task not in known:
            yield ("proxy", "tasks", i), str(unknown_name("task of this configuration", task, known))
