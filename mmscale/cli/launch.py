"""`mmscale launch`: methods as Slurm jobs."""

from __future__ import annotations

from typing import Annotated

import typer


def launch(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[METHOD[.STAGE]|KEY=VALUE]...", help="without one: all methods, evaluation and report"),
    ] = None,
    cluster: Annotated[str, typer.Option(help="YAML file that describes the cluster")] = "configs/cluster/h100.yaml",
    show: Annotated[bool, typer.Option("--print", help="show the batch scripts and do nothing (the default)")] = False,
    submit: Annotated[bool, typer.Option("--submit", help="submit the jobs")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="submit, then follow state and loss to the end")] = False,
) -> None:
    """Write the batch scripts of a run: one job a stage, each after the method's one before; then evaluation and report.

    Example: `mmscale launch configs/mindmerger/llama2-70b-mt5-xl.yaml --cluster configs/cluster/h100.yaml --submit`

    A job that is signalled, preempted or loses a node saves, goes back into the queue and continues.
    """
    from mmscale.config.cluster import load_cluster
    from mmscale.config.run import load_run
    from mmscale.errors import UserError
    from mmscale.runs import slurm_jobs

    if show and (submit or watch):
        raise UserError("--print only shows the batch scripts: leave it out to submit them")
    overrides = [word for word in words or [] if "=" in word]
    targets = [word for word in words or [] if "=" not in word]
    run, described = load_run(config, overrides), load_cluster(cluster)
    made = slurm_jobs.jobs(run, targets, described)
    if not (submit or watch):
        for job in made:
            print(f"# {job.script}\n{job.text}")
        return
    numbers = slurm_jobs.submit(run, made)
    if not watch:
        print(" ".join(numbers))
    elif not slurm_jobs.watch(made, numbers):
        raise typer.Exit(1)
