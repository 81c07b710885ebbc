"""Methods by name: one file a paper, found through one line here."""

from __future__ import annotations

from mmscale.errors import unknown_name
from mmscale.methods import mindmerger, multilingual_cot, question_alignment
from mmscale.methods.base import Method, StageSpec

METHODS: dict[str, Method] = {m.METHOD.name: m.METHOD for m in (question_alignment, mindmerger, multilingual_cot)}


def method(name: str) -> Method:
    """The method of a name; UserError naming the nearest when there is none."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


__all__ = ["METHODS", "Method", "StageSpec", "method"]
