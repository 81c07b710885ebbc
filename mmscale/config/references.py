"""What one part of a run's configuration says of another: stages of recipes, tasks, the proxy's expert.

Checked on the values as they are written, so that these mistakes are told together with those of single values.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import InitErrorDetails, PydanticCustomError

from mmscale import registry
from mmscale.config.evaluation import named_tasks
from mmscale.errors import UserError, unknown_name
from mmscale.storage.reading import KeyPath


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
    for method in dict.fromkeys([*_keys(recipes), *asked]):
        if method not in registry.names("methods"):
            continue  # told where it is named
        try:
            stages = [stage.name for stage in registry.get("methods", method).stages]
        except UserError as error:
            yield ("recipes", method), str(error)
            continue
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
