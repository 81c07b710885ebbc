"""`mmscale train`: one stage of one method."""

from __future__ import annotations

from typing import Annotated

import typer


def train(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    stage: Annotated[str, typer.Argument(help="METHOD.STAGE, for example mindmerger.mapping")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
) -> None:
    """Train one stage, and those before it that are not finished; one process, or one of many that a launcher starts.

    Example: `mmscale train configs/quickstart.yaml mindmerger.mapping`

    Several ranks: `torchrun --nproc-per-node 2 launch/train.py configs/quickstart.yaml mindmerger.mapping parallel.zero.stage=3`
    """
    from mmscale.api import train_stage
    from mmscale.cli.devices import started

    speaks = started().rank == 0
    model = train_stage(config, stage, overrides or ())
    if speaks:
        print(model)
