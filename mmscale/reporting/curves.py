"""Loss curves as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any


def loss_curve(rows: Sequence[dict[str, float]]) -> str:
    """Training and development loss over steps, log scale, as an <svg> element that scales with its box."""
    from matplotlib.figure import Figure  # imports slowly

    figure = Figure(figsize=(4.4, 2.5), layout="constrained")
    axis = figure.add_subplot()
    for key, colour, label in (("loss", "#3b7dd8", "training"), ("dev_loss", "#d8703b", "development")):
        points = [(row["step"], row[key]) for row in rows if key in row]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                color=colour,
                label=label,
                marker="o" if len(points) < 3 else "",
                linewidth=1.6,
            )
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("loss a target token")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    return svg_text(figure)


def svg_text(figure: Any) -> str:
    """A figure as an <svg> element, the same text every time."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "mmscale"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
