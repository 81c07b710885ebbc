"""Recipes of stages by choice: ablations of a method, or stages of several methods one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import WithJsonSchema, field_validator, model_validator

from mmscale.config.base import Config, MethodName, deep_merge
from mmscale.config.connector import ConnectorName
from mmscale.config.prompt import PromptName

_NAMED = {"type": "object", "additionalProperties": {"type": "string"}}
_STAGES = {"anyOf": [{"type": "array", "items": {"anyOf": [{"type": "string"}, _NAMED]}}, _NAMED]}
"""What `stages` may be written as, for editors."""


class VariantConfig(Config):
    """A recipe whose stages are those of methods, some left out, repeated or in another order."""

    title: str = ""
    """What reports call it; empty takes its name."""
    method: MethodName | None = None
    """The method that a stage named without one is of."""
    stages: Annotated[dict[str, str], WithJsonSchema(_STAGES)] = {}
    """Its stages in order, each METHOD.STAGE, or STAGE of `method`; `{NAME: METHOD.STAGE}` where one comes twice. Empty takes
    all of `method`."""
    prompt: PromptName | None = None
    """Template by which its result is asked, where a task names none; null is that of its last stage."""
    connector: ConnectorName | None = None
    """What joins encoder and language model; null takes that of its methods, or the run's."""

    @field_validator("stages", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """A list of names or of one-key mappings, as a mapping of each stage's own name to what was written."""
        if not isinstance(given, (list, tuple)):
            return given
        stages: dict[str, Any] = {}
        for one in given:
            pairs = list(one.items()) if isinstance(one, Mapping) else [(str(one).rpartition(".")[2], one)]
            for name, reference in pairs:
                if name in stages:
                    raise ValueError(
                        f"two stages are called {name}: give the second a name of its own, {{{name}_again: {reference}}}"
                    )
                stages[name] = reference
        return stages

    @model_validator(mode="after")
    def _of_a_method(self) -> VariantConfig:
        if self.method is None and not self.stages:
            raise ValueError("name the method whose stages these are, or stages as METHOD.STAGE")
        for reference in self.stages.values():
            if self.method is None and "." not in reference:
                raise ValueError(f"stage {reference} is of no method: write METHOD.{reference}, or set method")
        return self

    def reference(self, stage: str) -> tuple[str, str]:
        """(method, stage) that a stage of this recipe is."""
        method, dot, name = self.stages.get(stage, stage).rpartition(".")
        return (method if dot else self.method or ""), name


def with_recipes(values: Any) -> Any:
    """The values of a run with the recipe of each variant filled in: stages that it does not write are those of the method,
    and keys that a stage does not write are those of the method's.

    What is wrong is left as it is: the checks that follow tell it.
    """
    variants, recipes = _mapping(values, "variants"), _mapping(values, "recipes")
    if not variants or not isinstance(values, dict):
        return values
    filled = dict(recipes)
    for name, given in variants.items():
        variant = as_variant(given)
        if variant is None:
            continue
        known = list(variant.stages) or list(_mapping(recipes, variant.method))
        own = _mapping(recipes, name)
        stages = {}
        for stage in known:
            method, of_method = variant.reference(stage)
            below = _mapping(_mapping(recipes, method), of_method)
            merged = deep_merge(below, _mapping(own, stage))
            if merged:
                stages[stage] = merged
        filled[name] = {**own, **stages}
    return {**values, "recipes": filled}


def _mapping(node: Any, key: Any) -> dict[Any, Any]:
    inner = node.get(key) if isinstance(node, dict) else None
    return inner if isinstance(inner, dict) else {}


def as_variant(given: Any) -> VariantConfig | None:
    """A variant as written in a configuration; None where it is wrong, which the checks of single values tell."""
    if isinstance(given, VariantConfig):
        return given
    try:
        return VariantConfig.model_validate(given)
    except ValueError:
        return None
