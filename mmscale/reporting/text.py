"""Scores as a table for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


def failures_of(entry: Mapping[str, Any]) -> dict[str, int]:
    """name -> answers of a task, in all languages, whose programs failed so; the most frequent first."""
    counts: Counter[str] = Counter()
    for cell in entry["languages"].values():
        counts.update(cell.get("failures") or {})
    return dict(counts.most_common())


def score_table(scores: dict[str, Any]) -> str:
    """One line per model and task: accuracy in per cent per language, the mean of non-English ones and its gain over the base."""
    lines: list[str] = []
    scores = {name: model for name, model in scores.items() if not model.get("of_sweep")}
    tasks = list(dict.fromkeys(task for model in scores.values() for task in model["tasks"]))
    for task in tasks:
        models = {name: model for name, model in scores.items() if task in model["tasks"]}
        codes = list(dict.fromkeys(code for model in models.values() for code in model["tasks"][task]["languages"]))
        width = max(len(model["title"]) for model in models.values())
        lines.append(f"{task:{width}} " + " ".join(f"{code:>6}" for code in codes) + "   non-English (95 % interval)")
        for model in models.values():
            entry = model["tasks"][task]
            cells = (entry["languages"].get(code) for code in codes)
            row = " ".join(f"{100 * cell['accuracy']:6.1f}" if cell else f"{'':6}" for cell in cells)
            rest = entry["non_english"]
            low, high = rest["interval"]
            base = scores.get(model["compared_with"] or "", {}).get("tasks", {}).get(task)
            gain = f"  {100 * (rest['accuracy'] - base['non_english']['accuracy']):+.1f}" if base else ""
            lines.append(
                f"{model['title']:{width}} {row}   {100 * rest['accuracy']:.1f} ({100 * low:.1f}–{100 * high:.1f}){gain}"
            )
            if failed := failures_of(entry):
                told = ", ".join(f"{name} {number}" for name, number in failed.items())
                lines.append(f"{'':{width}} programs without a value: {told}")
    return "\n".join(lines)
