"""`mmscale corpus`: build a training corpus in many languages, step by step or whole."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

app = typer.Typer(
    no_args_is_help=True,
    help="Build a training corpus in many languages from problems in one: read, translate, or all of it: run.",
)

ConfigName = Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, for example languages=[sw,yo] tasks=8")]


Cluster = Annotated[Path | None, typer.Option(help="cluster file: tasks run as an array of Slurm jobs")]
Ray = Annotated[str | None, typer.Option(help="address of a Ray cluster, or auto: tasks run there")]


def _run(
    names: Iterable[str], config: str, overrides: list[str] | None, cluster: Path | None = None, ray: str | None = None
) -> None:
    """Run steps of a corpus by name, and print its folder."""
    from mmscale import logs
    from mmscale.config.cluster import load_cluster
    from mmscale.config.corpus import load_corpus
    from mmscale.errors import UserError

    loaded = load_corpus(config, overrides or [])
    try:
        from mmscale.corpus.executors import executor
        from mmscale.corpus.pipeline import run_steps
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'mmscale[corpus]'") from error
    logs.to_folder(loaded.folder)
    run_steps(loaded, names, executor(loaded.workers, load_cluster(str(cluster)) if cluster else None, ray))
    print(loaded.folder)


@app.command()
def read(config: ConfigName, overrides: Overrides = None, cluster: Cluster = None, ray: Ray = None) -> None:
    """Read the sources into shards of rows, once; what is there already is not read again.

    Example: `mmscale corpus read configs/corpus/tinyworld.yaml`
    """
    _run(["read"], config, overrides, cluster, ray)


@app.command()
def translate(config: ConfigName, overrides: Overrides = None, cluster: Cluster = None, ray: Ray = None) -> None:
    """Translate the rows of the sources into every language of the corpus; what is translated already stays.

    Example: `mmscale corpus translate configs/corpus/mcot-math.yaml languages=[sw] tasks=4 workers=4`

    The same command goes on after a kill. Tasks share the shards; their number changes no output.
    """
    _run(["read", "translate"], config, overrides, cluster, ray)


@app.command("run")
def run_all(config: ConfigName, overrides: Overrides = None, cluster: Cluster = None, ray: Ray = None) -> None:
    """Run every step; the same command goes on where it was stopped.

    Example: `mmscale corpus run configs/corpus/tinyworld.yaml`
    """
    from mmscale.corpus.pipeline import STEPS

    _run(STEPS, config, overrides, cluster, ray)
