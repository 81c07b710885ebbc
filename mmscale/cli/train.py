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
    import torch

    from mmscale.cli.devices import joined
    from mmscale.config.run import load_run
    from mmscale.errors import unknown_name
    from mmscale.methods import METHODS
    from mmscale.methods.recipe import check
    from mmscale.methods.stages import StagePlace, run_stage
    from mmscale.models.assembly import ModelParts

    loaded = load_run(config, overrides or [])
    check(loaded)
    names = [f"{name}.{spec.name}" for name in loaded.recipes for spec in METHODS[name].stages]
    if stage not in names:
        raise unknown_name("stage", stage, names)
    method = METHODS[stage.split(".")[0]]
    parts = ModelParts(loaded.language_model, loaded.encoder if method.needs_encoder else None)
    with joined(loaded.parallel) as layout:
        if loaded.threads:
            torch.set_num_threads(loaded.threads)
        for spec in method.stages:
            place = StagePlace(loaded, method, spec)
            parts = run_stage(place, parts, layout)
            if f"{method.name}.{spec.name}" == stage:
                if layout.is_first:
                    print(place.model)
                return
