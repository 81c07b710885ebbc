"""`mmscale corpus`: build a training corpus in many languages, step by step or whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmscale import registry

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(
    no_args_is_help=True,
    help="Build a training corpus in many languages from problems in one: read, translate, or all of it: run.",
)

ConfigName = Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, for example languages=[sw,yo] tasks=8")]


Cluster = Annotated[Path | None, typer.Option(help="cluster file: tasks run as an array of Slurm jobs")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what there is and what is missing; change nothing")]
Ray = Annotated[str | None, typer.Option(help="address of a Ray cluster, or auto: tasks run there")]


def _run(
    names: Iterable[str] | None,
    config: str,
    overrides: list[str] | None,
    cluster: Path | None = None,
    ray: str | None = None,
) -> Path:
    """Run steps of a corpus by name, or all of them; returns its folder."""
    from mmscale import logs
    from mmscale.config.cluster import load_cluster
    from mmscale.config.corpus import load_corpus
    from mmscale.errors import UserError

    loaded = load_corpus(config, overrides or [])
    try:
        from mmscale.corpus.executors import executor
        from mmscale.corpus.pipeline import STEPS, run_steps
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'mmscale[corpus]'") from error
    logs.to_folder(loaded.folder)
    run_steps(
        loaded,
        STEPS if names is None else names,
        executor(loaded.workers, load_cluster(str(cluster)) if cluster else None, ray),
    )
    return loaded.folder


def _dry_run(config: str, overrides: list[str] | None) -> None:
    """Print what a corpus would be made of."""
    from mmscale.config.corpus import load_corpus
    from mmscale.corpus.dry_run import dry_run

    for line in dry_run(load_corpus(config, overrides or [])):
        print(line)


@app.command()
def read(config: ConfigName, overrides: Overrides = None, cluster: Cluster = None, ray: Ray = None) -> None:
    """Read the sources into shards of rows, once; what is there already is not read again.

    Example: `mmscale corpus read configs/corpus/tinyworld.yaml`
    """
    print(_run(["read"], config, overrides, cluster, ray))


@app.command()
def check(
    config: ConfigName,
    overrides: Overrides = None,
    list_rows: Annotated[
        str | None,
        typer.Option("--list", help=f"print every row that a check flagged: {registry.listed('checks')}"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object, or one a row with --list")] = False,
    cluster: Cluster = None,
    ray: Ray = None,
) -> None:
    """Check every row, flag it, and drop what the configuration says; what is checked already is not checked again.

    Example: `mmscale corpus check configs/corpus/tinyworld.yaml check.drop=[numbers,final_answer]`
    """
    if list_rows is not None:
        registry.require("checks", list_rows)
    folder = _run(["check"], config, overrides, cluster, ray)
    from mmscale.corpus.showing import print_checks, print_flagged

    if list_rows is None:
        print_checks(folder, as_json)
    else:
        print_flagged(folder, list_rows, as_json)


@app.command()
def translate(
    config: ConfigName,
    overrides: Overrides = None,
    cluster: Cluster = None,
    ray: Ray = None,
    dry_run: DryRun = False,
) -> None:
    """Translate the rows of the sources into every language of the corpus; what is translated already stays.

    Example: `mmscale corpus translate configs/corpus/mcot-math.yaml languages=[sw] tasks=4 workers=4`

    The same command goes on after a kill. Tasks share the shards; their number changes no output.
    """
    if dry_run:
        _dry_run(config, overrides)
    else:
        print(_run(["read", "translate"], config, overrides, cluster, ray))


@app.command("compile")
def compile_rows(
    config: ConfigName,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="the manifest, one JSON object")] = False,
    cluster: Cluster = None,
    ray: Ray = None,
) -> None:
    """Compile checked rows into a corpus for training: mixed, split, shuffled, as parquet files with a manifest and a data card.

    Example: `mmscale corpus compile configs/corpus/tinyworld.yaml compile.temperature=2`
    """
    _run(["compile"], config, overrides, cluster, ray)
    from mmscale.config.corpus import load_corpus
    from mmscale.corpus.showing import print_compiled

    print_compiled(load_corpus(config, overrides or []), as_json)


@app.command("run")
def run_all(
    config: ConfigName,
    overrides: Overrides = None,
    cluster: Cluster = None,
    ray: Ray = None,
    dry_run: DryRun = False,
) -> None:
    """Run every step; the same command goes on where it was stopped.

    Example: `mmscale corpus run configs/corpus/tinyworld.yaml`

    Example: `mmscale corpus run configs/corpus/mcot-math.yaml --dry-run`
    """
    if dry_run:
        _dry_run(config, overrides)
    else:
        print(_run(None, config, overrides, cluster, ray))
