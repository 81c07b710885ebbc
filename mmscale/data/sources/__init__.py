"""Public data sets by name: one file each, found through one line here."""

from __future__ import annotations

import importlib

from mmscale.data.sources.base import Request, Source
from mmscale.errors import unknown_name

SOURCES: dict[str, str] = {
    "tinyworld": "mmscale.data.sources.tinyworld",
}


def source(name: str) -> Source:
    """The source of a name; UserError naming the nearest when there is none."""
    if name not in SOURCES:
        raise unknown_name("data source", name, SOURCES)
    return importlib.import_module(SOURCES[name]).SOURCE


__all__ = ["SOURCES", "Request", "Source", "source"]
