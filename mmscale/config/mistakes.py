"""pydantic's complaints as sentences: all of them at once, each with file, line, key and remedy."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mmscale.config.documents import Document
from mmscale.config.fields import PLACEHOLDERS, section_at, walk
from mmscale.config.usual_names import RETIRED, USUAL_NAMES
from mmscale.errors import UserError, unknown_name
from mmscale.storage.reading import KeyPath

_MOST = 20
"""Mistakes that are told at once; a file with more is of another kind."""
_KEY = "[key]"
"""What pydantic puts behind a key that is itself wrong."""


def mistakes(root: type[BaseModel], error: ValidationError, document: Document) -> UserError:
    """Every complaint on a line of its own."""
    told = list(dict.fromkeys(_told(root, one, document) for one in error.errors()))
    more = [f"{document.name}: and {len(told) - _MOST} more"] if len(told) > _MOST else []
    return UserError("\n".join([*told[:_MOST], *more]))


def validation_sentence(root: type[BaseModel], error: ValidationError, origin: str) -> UserError:
    """The complaints about values that stand in no file."""
    return mistakes(root, error, Document({}, name=origin))


def _told(root: type[BaseModel], one: ErrorDetails, document: Document) -> str:
    path = tuple(part for part in one["loc"] if part != _KEY)
    key = ".".join(str(part)[:80] for part in path) or "(top level)"
    return f"{document.where(path)}: {key}: {_reason(root, one, path)}"


def _reason(root: type[BaseModel], one: ErrorDetails, path: KeyPath) -> str:
    if one["type"] == "extra_forbidden":
        return unknown_key(root, path)
    message = one["msg"].removeprefix("Value error, ")
    given = "" if one["type"] in ("missing", "value_error") else f", got {one['input']!r:.200}"
    return f"{message[0].lower()}{message[1:]}{given}"


def unknown_key(root: type[BaseModel], path: KeyPath) -> str:
    """What to tell of a key that is none of ours there: where ours is, if it is known by that name, else the nearest."""
    name = str(path[-1])
    if ".".join(map(str, path)) in RETIRED:
        return f"unknown key '{name}': {RETIRED['.'.join(map(str, path))]}"
    known, note = USUAL_NAMES.get(name, (None, ""))
    ours = [] if not known else [known]
    ours += [".".join(map(str, path)) for path, _ in walk(root) if path[-1] == name]
    if known == "" and not ours:
        return f"unknown key '{name[:80]}': {note}"
    if ours:
        ranked = sorted(dict.fromkeys(_placed(one, path) for one in ours), key=lambda one: -_shared(one, path))
        nearest = [one for one in ranked if _shared(one, path) == _shared(ranked[0], path)][:3]
        remark = f" ({note})" if note and nearest[0] == _placed(ours[0], path) else ""
        told = [one if "." in one else f"{one} at the top level" for one in nearest]
        return f"unknown key '{name}': ours is {' or '.join(told)}{remark}"
    section = section_at(root, path[:-1])
    wrong = unknown_name("key", name[:80], set(section.model_fields) if section else set())
    return str(wrong)


def _placed(pattern: str, path: KeyPath) -> str:
    """A path with the keys that a user chose in place of the words for them, as far as both go the same way."""
    chosen = {word for words in PLACEHOLDERS.values() for word in words} | {"N", "NAME"}
    parts: list[str] = []
    for i, part in enumerate(pattern.split(".")):
        same = i < len(path) - 1 and parts == [str(one) for one in path[:i]]
        parts.append(str(path[i]) if part in chosen and same else part)
    return ".".join(parts)


def _shared(pattern: str, path: KeyPath) -> int:
    """How many keys from the top two paths have in common."""
    count = 0
    for ours, theirs in zip(pattern.split("."), path):
        if ours != str(theirs):
            break
        count += 1
    return count
