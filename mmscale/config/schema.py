"""The configuration as JSON Schema, for editors that complete and check YAML with it."""

from __future__ import annotations

from typing import Any

from mmscale import registry
from mmscale.config.base import Config
from mmscale.config.run import RunConfig
from mmscale.errors import UserError

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS = {
    "type": "string",
    "description": "A file that this one is laid over, relative to it; mappings are merged, everything else is replaced.",
}


def json_schema(root: type[Config]) -> dict[str, Any]:
    """The JSON Schema of a configuration file, names of other packages included.

    What a file has to hold is asked of it only where it extends no other; whether the whole is complete `mmscale config show`
    says.
    """
    schema = root.model_json_schema()
    for section in schema.get("$defs", {}).values():
        section.pop("required", None)
    required = schema.pop("required", [])
    schema["properties"] = {"extends": _EXTENDS, **schema["properties"]}
    if issubclass(root, RunConfig):
        schema["properties"]["recipes"] |= {"properties": dict(_recipes())}
        schema |= _without_variants()
    return {"$schema": _DIALECT, **schema, "anyOf": [{"required": ["extends"]}, {"required": required}]}


def _without_variants() -> dict[str, Any]:
    """A file that makes no variants has recipes of methods alone."""
    known = registry.names("methods")
    methods = {"items": {"enum": known}}
    recipes = {"propertyNames": {"enum": known}}
    return {"if": {"not": {"required": ["variants"]}}, "then": {"properties": {"methods": methods, "recipes": recipes}}}


def _recipes() -> list[tuple[str, dict[str, Any]]]:
    """The stages of each method, so that an editor offers them; a method that cannot be loaded is left open."""
    keys: list[tuple[str, dict[str, Any]]] = []
    for name in registry.names("methods"):
        try:
            method = registry.get("methods", name)
        except UserError:
            keys.append((name, {"type": "object"}))
            continue
        stages = {stage.name: {"$ref": "#/$defs/StageConfig"} for stage in method.stages}
        about = f"{method.title} ({method.paper})" if method.paper else method.title
        entry = {"type": "object", "description": about, "properties": stages, "additionalProperties": False}
        keys.append((name, entry))
    return keys
