"""`mmscale run`: a whole recipe, from data to report; the same command continues it."""

from __future__ import annotations

from typing import Annotated

import typer


def run(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value, for example methods=[mindmerger] seed=2")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="resolve everything, count parameters and tokens, train nothing")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print scores.json (or the dry run) as JSON")] = False,
) -> None:
    """Run a whole recipe: base evaluation, every stage of every method, evaluation, report.

    Example: `mmscale run configs/quickstart.yaml methods=[mindmerger]`

    Starting the same run again continues it; a finished stage is not repeated. Under a launcher its ranks share
    training and evaluation: `torchrun --nproc-per-node 8 -m mmscale run CONFIG`.
    """
    from mmscale.config.run import load_run

    loaded = load_run(config, overrides or [])
    if dry_run:
        from mmscale.methods.dry_run import dry_run as resolve
        from mmscale.methods.dry_run import show

        show(resolve(loaded), as_json)
        return
    from mmscale.cli.devices import joined, started
    from mmscale.methods.recipe import Run, places
    from mmscale.methods.tokenizing import prepare
    from mmscale.progress import say
    from mmscale.reporting.html import write_report

    world = started()
    prepare(places(loaded), world)
    with joined(loaded.parallel, world) as layout:
        work = Run(loaded, layout)
        work.execute()
    if not layout.is_first:
        return
    report = write_report([work.folder], work.folder / "report.html")
    if as_json:
        import json

        print(json.dumps(work.scores(), ensure_ascii=False, indent=2))
    else:
        from mmscale.reporting.text import score_table

        print(score_table(work.scores()))
    say(f"report: {report}")
