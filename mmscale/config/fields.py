"""The tree of a configuration's keys, as its classes declare them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mmscale.storage.reading import KeyPath

PLACEHOLDERS = {"recipes": ("METHOD", "STAGE"), "tasks": ("TASK",), "variants": ("VARIANT",)}
"""What pages and messages write for the keys that a user chooses."""


def is_model(annotation: Any) -> bool:
    """Whether a type is a section of the configuration."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _plain(annotation: Any) -> Any:
    """The type without None and without annotations."""
    while True:
        arguments = [part for part in get_args(annotation) if part is not type(None)]
        if get_origin(annotation) in (Union, types.UnionType) and len(arguments) == 1:
            annotation = arguments[0]
        elif hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        else:
            return annotation


def inside(annotation: Any, name: str = "") -> tuple[Any, KeyPath]:
    """The section that a field holds, however deep in lists and mappings, and what stands for the keys on the way there;
    None for a plain value.
    """
    annotation, names, path = _plain(annotation), list(PLACEHOLDERS.get(name, ())), []
    while get_origin(annotation) in (dict, tuple, list):
        parts = get_args(annotation)
        path.append((names.pop(0) if names else "NAME") if get_origin(annotation) is dict else "N")
        annotation = _plain(parts[1] if get_origin(annotation) is dict else parts[0])
    return (annotation, tuple(path)) if is_model(annotation) else (None, ())


def walk(root: type[BaseModel], before: KeyPath = ()) -> Iterator[tuple[KeyPath, FieldInfo]]:
    """Every field below a section with its path, sections before what is in them; keys that users choose in capitals."""
    for name, field in root.model_fields.items():
        yield (*before, name), field
        section, path = inside(field.annotation, name)
        if section is not None:
            yield from walk(section, (*before, name, *path))


def section_at(root: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """The section that stands at a path of real keys; None where none does."""
    current: Any = root
    for part in path:
        current = _plain(current)
        if is_model(current):
            field = current.model_fields.get(str(part))
            current = None if field is None else field.annotation
        elif get_origin(current) in (dict, tuple, list):
            parts = get_args(current)
            current = parts[1] if get_origin(current) is dict else parts[0]
        else:
            return None
    current = _plain(current)
    return current if is_model(current) else None
