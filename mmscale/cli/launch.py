"""`mmscale launch`: a method as Slurm jobs."""

from __future__ import annotations

from typing import Annotated

import typer


def launch(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    target: Annotated[str, typer.Argument(help="METHOD, or METHOD.STAGE")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    cluster: Annotated[str, typer.Option(help="YAML file that describes the cluster")] = "configs/cluster/h100.yaml",
    submit: Annotated[bool, typer.Option("--submit", help="submit the jobs; without it they are only shown")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="submit, then follow state and loss to the end")] = False,
) -> None:
    """Write the batch scripts of a method's stages, one job a stage, each after the one before.

    Example: `mmscale launch configs/mindmerger/llama2-70b-mt5-xl.yaml mindmerger --cluster configs/cluster/h100.yaml`

    A job that is signalled, preempted or loses a node saves, goes back into the queue and continues.
    """
    from mmscale.config.cluster import load_cluster
    from mmscale.config.run import load_run
    from mmscale.methods import launching

    run, described = load_run(config, overrides or []), load_cluster(cluster)
    made = launching.jobs(run, target, described)
    if not (submit or watch):
        for job in made:
            print(f"# {job.script}\n{job.text}")
        return
    numbers = launching.submit(run, made)
    if not watch:
        print(" ".join(numbers))
    elif not launching.watch(made, numbers):
        raise typer.Exit(1)
