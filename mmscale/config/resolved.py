"""A resolved configuration with where each of its values comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from mmscale import registry
from mmscale.config.documents import Document, find_config, key_paths, read_document, with_overrides
from mmscale.config.run import RunConfig, parse_document
from mmscale.storage.reading import KeyPath

DEFAULT = "default"
_COMMENT_COLUMN = 60


def read(name: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, Document]:
    """The checked configuration, and what was written of it."""
    document = with_overrides(read_document(find_config(name)), overrides)
    return parse_document(document), document


def leaves(node: Any, before: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every value that is shown on one line, with its path: all but sections and lists of sections."""
    if _is_section(node) or _is_list_of_sections(node):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, (*before, key))
    else:
        yield before, node


def origin(path: KeyPath, document: Document, run: RunConfig) -> str:
    """Where a value comes from: "file:line", the command line, the task or recipe that another one begins with, or our default."""
    if path in document.origins:
        return document.origins[path]
    if path[:1] == ("variants",) and path[2:3] == ("stages",):  # a list as written
        return document.origins.get(path[:3], DEFAULT)
    if path[:1] == ("recipes",) and len(path) > 2 and str(path[1]) in run.variants:
        method = run.variants[str(path[1])].reference(str(path[2]))
        return document.origins.get(("recipes", *method, *path[3:]), DEFAULT)
    named: Any = document.values
    for part in path[:3]:
        named = named.get(part) if isinstance(named, dict) else None
    if path[:2] == ("evaluation", "tasks") and isinstance(named, dict) and named.get("task"):
        begun = registry.get("tasks", named["task"]).model_dump(mode="json", exclude_unset=True)
        if path[3:] in set(key_paths(begun)):
            return f"task {named['task']}"
    return DEFAULT


def annotated_yaml(run: RunConfig, document: Document) -> str:
    """YAML that reads back as the same configuration, each value with a comment that says where it comes from."""
    return "\n".join(_lines(run, run.model_dump(mode="json"), (), document)) + "\n"


def _is_section(value: Any) -> bool:
    return isinstance(value, dict) and bool(value)


def _is_list_of_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_section, value))


def _lines(run: RunConfig, node: dict[str, Any], before: KeyPath, document: Document) -> Iterator[str]:
    for key, value in node.items():
        path, name = (*before, key), flow(key)
        if _is_section(value):
            yield f"{name}:"
            yield from (f"  {line}" for line in _lines(run, value, path, document))
        elif _is_list_of_sections(value):
            yield f"{name}:"
            for i, item in enumerate(value):
                lines = _lines(run, item, (*path, i), document)
                yield from (f"{'  - ' if first else '    '}{line}" for first, line in zip([True], lines))
                yield from (f"    {line}" for line in lines)
        else:
            yield f"{f'{name}: {flow(value)}':{_COMMENT_COLUMN - 2 * len(path)}}  # {origin(path, document, run)}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 30, sort_keys=False)
    text = text.removesuffix("...\n").strip()
    return text if "\n" not in text else json.dumps(value, ensure_ascii=False)
