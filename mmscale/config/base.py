"""The frozen base of every configuration class, and pydantic's complaints told in one sentence."""

from __future__ import annotations

from typing import Annotated, Any, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from mmscale.errors import UserError, unknown_name
from mmscale.languages import language


def _known_languages(codes: tuple[str, ...]) -> tuple[str, ...]:
    for code in codes:
        language(code)
    return codes


LanguageCodes = Annotated[tuple[str, ...], AfterValidator(_known_languages)]
"""ISO codes of languages in mmscale/languages.py."""


Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of random numbers here takes."""


class Config(BaseModel):
    """A typed, frozen section of the configuration; unknown keys are refused, and numbers no library could take."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @model_validator(mode="after")
    def _within_64_bits(self) -> Config:
        for name, value in self:
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name} is a number of more than 64 bits")
        return self


def deep_merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` in place of its own; mappings in both are laid over each other in turn."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged


def _below(annotation: Any, key: int | str) -> Any:
    """The type that stands behind `key` in a value of type `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return None if field is None else field.annotation
    arguments = [a for a in get_args(annotation) if a not in (type(None), Ellipsis)]
    if get_origin(annotation) is dict:
        return arguments[1]
    if get_origin(annotation) is tuple:
        return arguments[0]
    return _below(arguments[0], key) if arguments else None


def _fields_at(root: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Names of the keys that are valid beside the last element of `path`, seen from `root`."""
    current: Any = root
    for part in path[:-1]:
        current = _below(current, part)
    while get_args(current) and get_origin(current) not in (dict, tuple):
        current = next(a for a in get_args(current) if a is not type(None))
    if isinstance(current, type) and issubclass(current, BaseModel):
        return set(current.model_fields)
    return set()


def validation_sentence(root: type[BaseModel], error: ValidationError, origin: str) -> UserError:
    """The first complaint of a ValidationError as one sentence naming file, key and remedy."""
    first: ErrorDetails = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "(top level)"
    if first["type"] == "extra_forbidden":
        wrong = unknown_name("key", str(first["loc"][-1]), _fields_at(root, first["loc"]))
        return UserError(f"{origin}: {wrong} (at {key})")
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return UserError(f"{origin}: {key}: {message[0].lower()}{message[1:]}{given}")
