"""`mmscale run`: a whole recipe, from data to report; the same command continues it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Collection

    from mmscale.config.run import RunConfig
    from mmscale.runs.run import Run


def run(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example methods=[mindmerger] seed=2")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="resolve everything, count parameters and tokens, train nothing")
    ] = False,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="with --dry-run: also build pieces, groups and a step of chosen ranks of this cluster's full number"
        ),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="let this model alone (base, a method, ...) answer its tasks; no scores, no report"
        ),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="train nothing and ask nothing: scores and report of what was answered")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print scores.json (or the dry run) as JSON")] = False,
) -> None:
    """Run a whole recipe: base evaluation, every stage of every method, evaluation, report.

    Example: `mmscale run configs/quickstart.yaml methods=[mindmerger]`

    Example: `mmscale run configs/mindmerger/llama2-70b-mt5-xl.yaml --dry-run --cluster configs/cluster/h100.yaml`

    Starting the same run again continues it; a finished stage is not repeated. Under a launcher its ranks share
    training and evaluation: `torchrun --nproc-per-node 8 -m mmscale run CONFIG`.

    Example, after models have answered in jobs of their own: `mmscale run runs/quickstart/run.yaml --scores`
    """
    from mmscale.config.run import load_run
    from mmscale.errors import UserError

    loaded = load_run(config, overrides or [])
    if dry_run and (models or scores):
        raise UserError(f"--dry-run asks no model and counts nothing: leave out {'--model' if models else '--scores'}")
    if dry_run:
        _dry_run(loaded, cluster, as_json)
        return
    if cluster is not None:
        raise UserError("--cluster goes with --dry-run; mmscale launch CONFIG --cluster FILE runs on it")
    if scores and models:
        raise UserError("--scores counts what all models answered: leave out --model")
    from mmscale.progress import say
    from mmscale.reporting.html import write_report

    work = _counted(loaded) if scores else _worked(loaded, models or ())
    if work is None or models:
        return
    report = write_report([work.folder], work.folder / "report.html")
    if as_json:
        import json

        print(json.dumps(work.scores(), ensure_ascii=False, indent=2))
    else:
        from mmscale.reporting.text import score_table

        print(score_table(work.scores()))
    say(f"report: {report}")


def _worked(loaded: RunConfig, models: Collection[str]) -> Run | None:
    """The run, executed by all ranks; None where another rank speaks for all."""
    from mmscale import logs
    from mmscale.cli.devices import joined, started
    from mmscale.runs.run import Run, prepared_stages
    from mmscale.runs.stage_data import prepare

    world = started()
    logs.to_folder(loaded.directory)
    prepare(prepared_stages(loaded), world)
    with joined(loaded.parallel, world) as context:
        work = Run(loaded, context)
        work.execute(models)
    return work if context.is_first else None


def _counted(loaded: RunConfig) -> Run:
    """The run as its models left it, by this process alone."""
    import torch

    from mmscale.parallel.context import ParallelContext
    from mmscale.runs.run import Run

    work = Run(loaded, ParallelContext(device=torch.device("cpu")))
    work.count()
    return work


def _dry_run(loaded: RunConfig, cluster: str | None, as_json: bool) -> None:
    import json

    from mmscale.config.cluster import load_cluster
    from mmscale.planning import dry_run

    described = dry_run.dry_run(loaded)
    if cluster is not None:
        from mmscale.planning import rehearsal

        described["full_size"] = rehearsal.rehearse(loaded, load_cluster(cluster))
    if as_json:
        print(json.dumps(described, ensure_ascii=False, indent=2))
        return
    dry_run.show(described)
    if cluster is not None:
        rehearsal.show(described["full_size"])
