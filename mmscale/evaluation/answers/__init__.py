"""Answer extraction rules by name: one file each; the published ones exactly, faults included."""

from __future__ import annotations

from mmscale.errors import unknown_name
from mmscale.evaluation.answers import exact, last_number, locale_aware, mcot, proxy_gsm
from mmscale.evaluation.answers.base import Rule

RULES: dict[str, Rule] = {
    "default": locale_aware.RULE,
    "last_number": last_number.RULE,
    "mcot": mcot.RULE,
    "proxy_gsm": proxy_gsm.RULE,
    "exact": exact.RULE,
}


def rule(name: str) -> Rule:
    """The rule of a name; UserError naming the nearest when there is none."""
    if name not in RULES:
        raise unknown_name("rule", name, RULES)
    return RULES[name]


__all__ = ["RULES", "Rule", "rule"]
