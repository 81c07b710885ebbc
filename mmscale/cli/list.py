"""`mmscale list`: everything that can be called by name."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from mmscale import registry


def list_names(
    kind: Annotated[str, typer.Argument(help=f"one of {', '.join(registry.KINDS)}; without it all of them")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="a JSON array of objects with name and summary")] = False,
) -> None:
    """Sources, prompts, rules, methods and all else that has a name, built in and of other packages.

    Example: `mmscale list sources`

    What another package adds names that package; what of it cannot be used says why.
    """
    kinds = [kind] if kind else list(registry.KINDS)
    listed = [(name, entry) for name in kinds for entry in registry.entries(name)]
    if as_json:
        rows = [_row(name, entry, with_kind=not kind) for name, entry in listed]
        print(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    width = max((len(entry.name) for _, entry in listed), default=0)
    for name in kinds:
        if not kind:
            print(f"{name}:")
        for entry in (entry for of, entry in listed if of == name):
            print(f"{'' if kind else '  '}{entry.name:{width}}  {_told(entry)}".rstrip())


def _told(entry: registry.Entry) -> str:
    package = f" ({entry.package})" if entry.package else ""
    return f"broken: {entry.problem}" if entry.problem else f"{entry.summary}{package}"


def _row(kind: str, entry: registry.Entry, with_kind: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"kind": kind} if with_kind else {}
    row |= {"name": entry.name, "summary": entry.summary}
    return row | {key: value for key in ("package", "problem") if (value := getattr(entry, key)) is not None}
