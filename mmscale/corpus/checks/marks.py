r"""Calculator marks and LaTeX, which a translation keeps: `<<3*4=12>>`, `####`, `$x$`, `\frac{1}{2}`, `\boxed{12}`."""

from __future__ import annotations

import re
from collections import Counter

from mmscale.corpus.checks.base import RowScore, by_row, sides, worst
from mmscale.corpus.rows import CorpusRow

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_COMMAND = re.compile(r"\\(?:[A-Za-z]+|[()\[\]])")
_TEXT = re.compile(r"\\(?:text|mbox|textbf|mathrm)\s*\{[^{}]*\}")
"""What is inside is words, and translated."""
_PAIRS = (("{", "}"), ("<<", ">>"), (r"\(", r"\)"), (r"\[", r"\]"), (r"\begin", r"\end"), (r"\left", r"\right"))


def _marks(text: str) -> Counter[str]:
    """Every mark of a text and how often it stands there."""
    bare = _TEXT.sub(r"\\text", text)
    marks = Counter("".join(mark.split()) for mark in _CALCULATOR.findall(bare))
    marks.update(_COMMAND.findall(bare))
    marks["####"] = text.count("####")
    marks["<<"], marks[">>"] = text.count("<<"), text.count(">>")
    if "\\" in text:
        marks["$"] = text.count("$") - text.count(r"\$")
        marks["{"], marks["}"] = text.count("{"), text.count("}")
    return marks


def _open(text: str) -> list[str]:
    """Pairs of marks that do not close."""
    return [f"{left} {right}" for left, right in _PAIRS if text.count(left) != text.count(right)]


def _score_of(name: str, text: str, original: str) -> RowScore | None:
    ours, theirs = _marks(text), _marks(original)
    if not +ours and not +theirs:
        return None
    lost, new = theirs - ours, ours - theirs
    open_here = sorted(set(_open(text)) - set(_open(original)))
    told = [
        f"{what} {', '.join(sorted(some)[:3])}"
        for what, some in (("lost", lost), ("new", new), ("unclosed", open_here))
        if some
    ]
    return RowScore(max(lost.total(), new.total(), len(open_here)), f"{name}: {'; '.join(told)}" if told else "")


def score(row: CorpusRow) -> RowScore | None:
    """How many marks are lost or new, whichever is more; None of a row whose original and translation have none."""
    return worst([_score_of(name, text, original) for name, text, original in sides(row)])


CHECK = by_row(score, threshold=0)
"""Calculator marks or LaTeX that the translation lost, broke or added."""
