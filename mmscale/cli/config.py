"""`mmscale config`: what can be configured, and what a configuration says."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Configurations: their schema, what one of them says, every key.")


@app.command()
def schema(
    of: Annotated[str, typer.Argument(help="run, cluster or corpus: the kind of file")] = "run",
) -> None:
    """Print the JSON Schema of configuration files, by which editors complete and check them.

    Example: `mmscale config schema > mmscale.schema.json`
    """
    from mmscale.config.base import Config
    from mmscale.config.cluster import ClusterConfig
    from mmscale.config.corpus import CorpusConfig
    from mmscale.config.run import RunConfig
    from mmscale.config.schema import json_schema
    from mmscale.errors import unknown_name

    roots: dict[str, type[Config]] = {"run": RunConfig, "cluster": ClusterConfig, "corpus": CorpusConfig}
    if of not in roots:
        raise unknown_name("kind of configuration", of, roots)
    print(json.dumps(json_schema(roots[of]), ensure_ascii=False, indent=2))


@app.command()
def show(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object: key -> value and where it is from")] = False,
) -> None:
    """Print a configuration as a run would use it, and where each value comes from: a file's line, the command line, a default.

    Example: `mmscale config show configs/proxy_tuning/tinyworld.yaml seed=2`

    Without --json it is YAML that `mmscale run` takes.
    """
    from mmscale.config import resolved

    run, document = resolved.read(config, overrides or [])
    if not as_json:
        print(resolved.annotated_yaml(run, document), end="")
        return
    rows = {
        ".".join(map(str, path)): {"value": value, "from": resolved.origin(path, document, run)}
        for path, value in resolved.leaves(run.model_dump(mode="json"))
    }
    print(json.dumps(rows, ensure_ascii=False, indent=2))


@app.command()
def docs() -> None:
    """Print the page of every key, docs/configuration.md.

    Example: `mmscale config docs > configuration.md`
    """
    from mmscale.config.page import page

    print(page(), end="")
