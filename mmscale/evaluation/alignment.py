"""Prediction files side by side: which rows are of the same problem, and that their golds say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

from mmscale.errors import UserError
from mmscale.evaluation.answers import Rule
from mmscale.evaluation.predictions import Prediction

Files = Mapping[str, Sequence[Prediction]]
"""Name of a file or language -> its rows."""


def aligned(files: Files, rule: Rule, by_question: bool = False) -> tuple[dict[str, list[Prediction]], str]:
    """Every file's rows in the order of the first one's problems, and what they were matched by.

    By `id` where every row has one; `by_question`, for files of one language, by the question's text where every file
    holds the same; else by position. UserError where a problem is missing, or where golds differ: then rows of
    different problems would be compared.
    """
    keys = _keys(files, by_question)
    if keys is None:
        sizes = {name: len(rows) for name, rows in files.items()}
        if len(set(sizes.values())) > 1:
            raise UserError(
                f"the files need the same questions in every language or model, but their rows are {sizes}, and not every row has an id"
            )
        matched, by = {name: list(rows) for name, rows in files.items()}, "position"
    else:
        matched, by = _in_order(files, keys[0]), keys[1]
    _require_same_golds(matched, rule, by)
    return matched, by


def _keys(files: Files, by_question: bool) -> tuple[dict[str, list[Hashable]], str] | None:
    """Each file's row keys and what they are; None where only the position is left."""
    rows = [row for of_file in files.values() for row in of_file]
    if rows and all(row.identifier for row in rows):
        return {name: _numbered([row.identifier for row in of_file]) for name, of_file in files.items()}, "id"
    if by_question and all(row.question.strip() for row in rows):
        keys = {name: _numbered([row.question.strip() for row in of_file]) for name, of_file in files.items()}
        first, *others = [set(of_file) for of_file in keys.values()]
        if any(first & other for other in others):  # else the texts hold two different prompts
            return keys, "question"
    return None


def _numbered(texts: Sequence[str]) -> list[Hashable]:
    """A text that comes again is the second of its kind, and so on."""
    seen: Counter[str] = Counter()
    keys: list[Hashable] = []
    for text in texts:
        keys.append((text, seen[text]))
        seen[text] += 1
    return keys


def _in_order(files: Files, keys: Mapping[str, list[Hashable]]) -> dict[str, list[Prediction]]:
    first = next(iter(files))
    order = keys[first]
    ordered: dict[str, list[Prediction]] = {}
    for name, rows in files.items():
        by_key = dict(zip(keys[name], rows, strict=True))
        missing = [key for key in order if key not in by_key]
        more = [key for key in by_key if key not in set(order)]
        if missing or more:
            here, there, key = (first, name, missing[0]) if missing else (name, first, more[0])
            assert isinstance(key, tuple)
            raise UserError(
                f"{here} has a row '{str(key[0])[:80]}' and {there} has none like it ({len(missing) + len(more)} such rows): "
                f"give files of the same problems"
            )
        ordered[name] = [by_key[key] for key in order]
    return ordered


def _require_same_golds(files: Files, rule: Rule, by: str) -> None:
    first, *others = files
    for name in others:
        for place, (a, b) in enumerate(zip(files[first], files[name], strict=True), start=1):
            if not same_gold(a.answer, b.answer, rule):
                mend = "put them in the same order, or give every row an id" if by == "position" else "correct one"
                raise UserError(
                    f"row {place}, matched by {by}: the gold answer is '{a.answer[-40:]}' in {first} and '{b.answer[-40:]}' in "
                    f"{name}, so these are not answers to the same problem: {mend}"
                )


def same_gold(a: str, b: str, rule: Rule) -> bool:
    """Whether two gold fields say the same."""
    left, right = rule.gold(a), rule.gold(b)
    return left == right or rule.equal(left, right)
