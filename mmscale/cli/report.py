"""`mmscale report`: one self-contained HTML file, and a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(help="run directories")],
    output: Annotated[Path | None, typer.Option(help="HTML file; by default report.html in the first run")] = None,
    model_card: Annotated[bool, typer.Option("--model-card", help="also write MODEL_CARD.md beside it")] = False,
) -> None:
    """Write a report of one or several runs.

    Example: `mmscale report runs/quickstart --model-card`
    """
    from mmscale.reporting.html import write_report
    from mmscale.reporting.model_card import write_model_card

    target = output or runs[0] / "report.html"
    print(write_report(runs, target))
    if model_card:
        print(write_model_card(runs[0], target.parent / "MODEL_CARD.md"))
