"""`mmscale tinyworld`: make the embedded models again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def tinyworld(
    output: Annotated[Path, typer.Option(help="folder for llm, large_llm and encoder")] = Path("tinyworld-artifacts"),
    names: Annotated[list[str] | None, typer.Argument(help="llm, encoder, large_llm; all of them by default")] = None,
) -> None:
    """Train the embedded tokenizer, language models and encoder from scratch.

    Example: `mmscale tinyworld --output tinyworld-artifacts llm`

    The command that made the shipped artifacts; a killed build goes on where it was.
    """
    from mmscale.errors import unknown_name
    from mmscale.tinyworld import pretraining

    for name in names or []:
        if name not in pretraining.STEPS:
            raise unknown_name("embedded model", name, pretraining.STEPS)
    pretraining.build(output, tuple(names or pretraining.STEPS))
    print(output)
