"""The reference of every key, docs/configuration.md, from the classes that declare them."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mmscale import registry
from mmscale.config.base import Named
from mmscale.config.cluster import ClusterConfig
from mmscale.config.connector_settings import SETTINGS
from mmscale.config.corpus import CorpusConfig
from mmscale.config.fields import inside, walk
from mmscale.config.resolved import flow
from mmscale.config.run import RunConfig

COMMAND = "mmscale config docs > docs/configuration.md"
_HEAD = f"""<!-- Made by `{COMMAND}`; a test compares. Mend the docstrings in mmscale/config instead. -->
# Configuration

A run is one YAML file; `key=value` words behind it on the command line change single values (`seed=2`,
`recipes.mindmerger.mapping.data.0.path=/data/pairs`). A file may begin with another one: `extends: other.yaml`, relative to it;
mappings are merged, everything else is replaced.

`mmscale config show CONFIG [key=value ...]` prints what a run would use, each value with the file and line it comes from.
Mistakes are told all at once, each with file, line and key.

Editors complete and check configurations by their JSON Schema:

```bash
mmscale config schema > mmscale.schema.json
```

With the YAML language server (VS Code's YAML extension, Neovim, Emacs) the first line of a configuration names it:

```yaml
# yaml-language-server: $schema=mmscale.schema.json
```

Keys in capitals are yours to choose (METHOD and STAGE are those of `mmscale list methods`), N counts from 0.
"""
_CLUSTER_HEAD = """# Cluster files

What `--cluster` of `mmscale launch`, `plan` and `run --dry-run` reads; its schema is `mmscale config schema cluster`.
"""
_CORPUS_HEAD = """# Corpus files

What `mmscale corpus` reads; its schema is `mmscale config schema corpus`.
"""
_PLAIN = {int: "whole number", float: "number", str: "text", bool: "true or false"}
_OR_NULL = " or null"
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """The whole page."""
    of_corpus = [_CORPUS_HEAD, *_sections(CorpusConfig)]
    return "\n".join(
        [_HEAD, *_sections(RunConfig), *_of_connectors(), _CLUSTER_HEAD, *_sections(ClusterConfig), *of_corpus]
    )


def _sections(root: type[BaseModel]) -> Iterator[str]:
    """Every section once, whatever the number of places where it stands."""
    places: dict[type[BaseModel], list[str]] = {root: []}
    for path, field in walk(root):
        section, below = inside(field.annotation, str(path[-1]))
        if section is not None:
            places.setdefault(section, []).append(".".join(map(str, (*path, *below))))
    for section, paths in places.items():
        yield _section(", ".join(f"`{path}`" for path in paths) if paths else "The top level", section)


def _of_connectors() -> Iterator[str]:
    """The settings of each connector of ours that has any."""
    for name in registry.kind_of("connectors").built_in:
        if name in SETTINGS:
            yield _section(f"`connector` of kind `{name}`", SETTINGS[name])


def _section(title: str, section: type[BaseModel]) -> str:
    rows = [_row(name, field) for name, field in section.model_fields.items()]
    table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
    return f"## {title}\n\n{inspect.cleandoc(section.__doc__ or '')}\n\n{table}\n"


def _row(name: str, field: FieldInfo) -> str:
    cells = (f"`{name}`", _kind(name, field), _default(field), " ".join((field.description or "").split()))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        given = default.model_dump(mode="json", exclude_unset=True)
        return f"`{flow(given)}`" if given else "its defaults"
    return f"`{flow(list(default) if isinstance(default, tuple) else default)}`"


def _kind(name: str, field: FieldInfo) -> str:
    bounds = [
        f"{sign} {_number(getattr(part, key))}"
        for part in field.metadata
        for key, sign in _BOUNDS.items()
        if hasattr(part, key)
    ]
    marks = [part for part in field.metadata if isinstance(part, Named)]
    text = _named(marks[0]) if marks else _type(field.annotation, name)
    plain = text.removesuffix(_OR_NULL)
    return " ".join([plain, ", ".join(bounds)]).strip() + (
        f",{_OR_NULL}" if plain != text and bounds else text[len(plain) :]
    )


def _number(value: float) -> str:
    """A bound; powers of two as such."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 20 and value == 2**power else f"{value:g}"


def _named(mark: Named, one: str = "a name") -> str:
    words = "".join(f"`{word}` or " for word in mark.words)
    return f"{words}{one} of `mmscale list {mark.kind}`"


def _type(annotation: Any, name: str = "") -> str:
    """What a value of a type is, in words."""
    if hasattr(annotation, "__metadata__"):
        marks = [part for part in annotation.__metadata__ if isinstance(part, Named)]
        return _named(marks[0]) if marks else _type(annotation.__origin__)
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{flow(part)}`" for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else _type(part, name) for part in parts)
    if origin is tuple and len(parts) == 2 and parts[1] is not Ellipsis:
        return f"list of {len(parts)}: {_type(parts[0])}"
    if origin is tuple:
        marks = [mark for mark in getattr(parts[0], "__metadata__", ()) if isinstance(mark, Named)]
        return f"list of {_named(marks[0], 'names') if marks else _type(parts[0], name)}"
    if origin is dict:
        return "mapping" if parts[1] in (Any, str) else f"mapping to {_type(parts[1])}"
    return "section" if inside(annotation)[0] is not None else _PLAIN.get(annotation, "any")
