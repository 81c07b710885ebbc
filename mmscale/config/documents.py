"""Configurations as they are written: YAML files that extend each other, key=value overrides, and where each value stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from mmscale.config.base import deep_merge
from mmscale.errors import UserError
from mmscale.storage.reading import KeyPath, existing_file, is_file, parse_yaml, read_yaml_with_lines

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Document:
    """Values of a configuration before anything checks them."""

    values: dict[str, Any]
    origins: Mapping[KeyPath, str] = field(default_factory=dict)
    """Key path -> "file:line", or that it comes from the command line."""
    name: str = COMMAND_LINE
    """What to call the whole of it."""

    def where(self, path: KeyPath) -> str:
        """Where a key stands, or the section in which it is missing."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.name


def find_config(name: str) -> Path:
    """A YAML file by path, or by its name inside the configurations that ship with mmscale."""
    path = Path(name).expanduser()
    if is_file(path):
        return path
    shipped = Path(str(resources.files("mmscale.configs")))
    relative = name.removeprefix("configs/")
    if is_file(shipped / relative):
        return shipped / relative
    choices = sorted(str(p.relative_to(shipped)) for p in shipped.rglob("*.yaml"))
    if path.exists():
        raise UserError(f"{name} is not a file: name a YAML file")
    near = difflib.get_close_matches(relative, choices, n=1)
    hint = f"did you mean configs/{near[0]}?" if near else f"shipped: {', '.join('configs/' + c for c in choices)}"
    raise UserError(f"configuration not found: {name}: {hint}")


def read_document(path: Path, above: tuple[Path, ...] = ()) -> Document:
    """The YAML at `path` laid over the file its `extends` key names (relative to it), if any."""
    values, lines = read_yaml_with_lines(path)
    own = Document(values, {key: f"{path}:{line}" for key, line in lines.items()}, str(path))
    parent = values.pop("extends", None)
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise UserError(f"{path}: extends: {parent!r:.60} is not the name of a file; correct it")
    file = existing_file(path.parent / parent, f"{path}: extends:")
    chain = (*above, path.resolve())
    if file.resolve() in chain:
        raise UserError(f"{path}: extends: {parent} leads back to {file.resolve().name} itself; take that line out")
    return _merged(read_document(file, chain), own)


def _merged(below: Document, above: Document) -> Document:
    values = deep_merge(below.values, above.values)
    there = set(key_paths(values))
    origins = {key: origin for key, origin in {**below.origins, **above.origins}.items() if key in there}
    return Document(values, origins, above.name)


def key_paths(node: Any, before: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of every key and list element below a value, sections before what is in them."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield (*before, key)
        yield from key_paths(value, (*before, key))


def with_overrides(document: Document, overrides: Sequence[str]) -> Document:
    """The document with each "a.b.c=VALUE" set, VALUE read as YAML; list elements by number."""
    values, origins = document.values, dict(document.origins)
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"'{override}' is not key=value; for example methods=[mindmerger]")
        try:
            value = parse_yaml(text, "")
        except UserError as error:
            raise UserError(f"override {key}: '{text:.60}' is not a YAML value; quote it") from error
        values, path = _set(values, key.split("."), value, key)
        origins = {known: origin for known, origin in origins.items() if known[: len(path)] != path}
        for made in [path[:length] for length in range(1, len(path))]:  # sections that only the override has
            origins.setdefault(made, COMMAND_LINE)
        origins |= {(*path, *below): COMMAND_LINE for below in [(), *key_paths(value)]}
    return Document(values, origins, document.name)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`with_overrides` of plain values."""
    return with_overrides(Document(values), overrides).values


def _set(node: Any, parts: list[str], value: Any, key: str) -> tuple[Any, KeyPath]:
    """The node with a value in it, and the value's path, list elements as numbers."""
    if not parts:
        return value, ()
    head, rest = parts[0], parts[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise UserError(f"override {key}: '{head}' is not an index of a list of {len(node)}")
        changed, path = _set(node[int(head)], rest, value, key)
        return [*node[: int(head)], changed, *node[int(head) + 1 :]], (int(head), *path)
    if node is not None and not isinstance(node, dict):
        raise UserError(f"override {key}: there is no section before '{head}'")
    changed, path = _set((node or {}).get(head), rest, value, key)
    return {**(node or {}), head: changed}, (head, *path)
