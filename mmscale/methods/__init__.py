"""Methods by name: one file per paper, found through one line of mmscale/registry.py."""

from __future__ import annotations

from mmscale import registry
from mmscale.methods.base import Method, StageSpec


def method(name: str) -> Method:
    """The method of a name; UserError naming the nearest when there is none."""
    method_of_name: Method = registry.get("methods", name)
    return method_of_name


__all__ = ["Method", "StageSpec", "method"]
