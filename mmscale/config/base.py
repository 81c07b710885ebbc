"""The frozen base of every configuration class, and pydantic's complaints told in one sentence."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mmscale.errors import UserError, unknown_name


class Config(BaseModel):
    """A typed, frozen section of the configuration; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def _fields_at(root: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Names of the keys that are valid beside the last element of `path`, seen from `root`."""
    current: object = root
    for part in path[:-1]:
        if isinstance(current, type) and issubclass(current, BaseModel):
            field = current.model_fields.get(str(part))
            current = None if field is None else field.annotation
        while (arguments := getattr(current, "__args__", None)) is not None:
            models = [
                a for a in arguments if hasattr(a, "__args__") or (isinstance(a, type) and issubclass(a, BaseModel))
            ]
            current = models[-1] if models else None
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
