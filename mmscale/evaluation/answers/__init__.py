"""Answer extraction rules by name: one file each; the published ones exactly, faults included."""

from __future__ import annotations

from mmscale import registry
from mmscale.evaluation.answers.base import Rule


def rule(name: str) -> Rule:
    """The rule of a name; UserError naming the nearest when there is none."""
    chosen: Rule = registry.get("rules", name)
    return chosen


__all__ = ["Rule", "rule"]
