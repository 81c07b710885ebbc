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
    from mmscale.cli.devices import joined, started
    from mmscale.config.run import load_run
    from mmscale.models.assembly import ModelParts
    from mmscale.runs.environment import set_up_torch
    from mmscale.runs.run import stages_up_to
    from mmscale.runs.tokenizing import prepare
    from mmscale.runs.training import run_stage

    loaded = load_run(config, overrides or [])
    stages = stages_up_to(loaded, stage)
    parts = ModelParts(loaded.language_model, stages[-1].encoder)
    world = started()
    prepare(stages, world)
    with joined(loaded.parallel, world) as context:
        set_up_torch(loaded)
        for one in stages:
            parts = run_stage(one, parts, context)
    if context.is_first:
        print(stages[-1].model)
