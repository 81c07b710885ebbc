"""`mmscale plan`: fits? how fast? what does it cost?"""

from __future__ import annotations

from typing import Annotated

import typer

MOST = 1 << 40
"""Tokens or examples: more than any corpus."""


def plan(
    config: Annotated[str, typer.Argument(help="YAML file, or the name of one that ships with mmscale")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value")] = None,
    cluster: Annotated[str, typer.Option(help="YAML file that describes the cluster")] = "configs/cluster/h100.yaml",
    search: Annotated[bool, typer.Option("--search", help="list every layout that fits, the fastest first")] = False,
    example_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, max=MOST, help="mean merged tokens of an example; else read from the data, else the limits"
        ),
    ] = None,
    target_tokens: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="how many of them are targets; else a half")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="examples in an epoch; else read from the data")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object for programs")] = False,
) -> None:
    """Parameters, memory of a GPU by component, traffic, speed and cost of every stage, without weights or GPUs.

    Example: `mmscale plan configs/mindmerger/llama2-70b-mt5-xl.yaml --cluster configs/cluster/h100.yaml --examples 900000`

    Only config.json of the models is read. Memory is exact for parameters and optimizer; activations are traced on the
    meta device; speed is an estimate, see docs/scaling.md. Exit code 2 when loading, training, saving or evaluating does not fit; what leaves less than 8 % of the
    memory is called tight.
    """
    from mmscale.config.cluster import load_cluster
    from mmscale.config.run import load_run
    from mmscale.planning import showing
    from mmscale.planning.plan import Given, Planner

    planner = Planner(load_run(config, overrides or []), load_cluster(cluster))
    described = showing.describe(planner, Given(example_tokens, target_tokens, examples), search)
    (showing.show_json if as_json else showing.show)(described)
    if not described["fits"]:
        raise showing.does_not_fit(described)
