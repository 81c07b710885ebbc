"""Accuracy of a proxy-tuned model over alpha, as SVG text."""

from __future__ import annotations

from typing import Any

from mmscale.reporting.curves import svg_text

_LINES = (("non_english", "#2a9d6f", "other languages"), ("en", "#3b7dd8", "English"))


def sweep_picture(scores: dict[str, Any], task: str) -> str | None:
    """Points with intervals over alpha, the base at 0; dashed lines for the small expert and the base tuned itself, in the
    steered languages other than English. None where a run has no more than two strengths.
    """
    from matplotlib.figure import Figure  # imports slowly

    points = [
        (model["alpha"], _cells(model["tasks"][task]))
        for model in scores.values()
        if model.get("alpha") is not None and task in model["tasks"]
    ]
    if len(points) < 3:
        return None
    points.sort(key=lambda point: point[0])
    figure = Figure(figsize=(5.2, 3.0), layout="constrained")
    axis = figure.add_subplot()
    for key, colour, label in _LINES:
        here = [(alpha, cells[key]) for alpha, cells in points if key in cells]
        values = [100 * cell["accuracy"] for _, cell in here]
        below = [100 * (cell["accuracy"] - cell["interval"][0]) for _, cell in here]
        above = [100 * (cell["interval"][1] - cell["accuracy"]) for _, cell in here]
        if here:
            places = [alpha for alpha, _ in here]
            axis.errorbar(places, values, yerr=[below, above], color=colour, label=label, marker="o", capsize=2)
    steered = next(model for model in scores.values() if model.get("alpha") is not None)
    codes = [code for code in steered["tasks"][task]["languages"] if code != "en"]
    for name, colour in ((steered["expert"], "#d8703b"), ("proxy_ceiling", "#8e5bd0")):
        cells = scores.get(name, {}).get("tasks", {}).get(task, {}).get("languages", {})
        right = sum(cells[code]["correct"] for code in codes if code in cells)
        asked = sum(cells[code]["n"] for code in codes if code in cells)
        if asked:
            level = 100 * right / asked
            axis.axhline(level, color=colour, linestyle="--", linewidth=1.2, label=scores[name]["title"])
    axis.set_xlabel("alpha")
    axis.set_ylabel("per cent right")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=7)
    return svg_text(figure)


def _cells(entry: dict[str, Any]) -> dict[str, Any]:
    cells = {"non_english": entry["non_english"]} if entry["non_english"]["n"] else {}
    return {**cells, **({"en": entry["languages"]["en"]} if "en" in entry["languages"] else {})}
