"""Public data sets by name: one file each, found through one line of mmscale/registry.py."""

from __future__ import annotations

from mmscale import registry
from mmscale.data.sources.base import Source, SourceRequest


def source(name: str) -> Source:
    """The source of a name; UserError naming the nearest when there is none."""
    chosen: Source = registry.get("sources", name)
    return chosen


__all__ = ["Source", "SourceRequest", "source"]
