"""`mmscale doctor`: what this machine offers and which code paths follow."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False) -> None:
    """Show versions, hardware and the code paths chosen for them.

    Example: `mmscale doctor --json`
    """
    from mmscale.cli.devices import default_device, kernels_on
    from mmscale.decoding.graphs import recorder
    from mmscale.execution.pool import why_not
    from mmscale.models.attention import choose
    from mmscale.models.places import resolve_path
    from mmscale.runs.environment import describe_environment
    from mmscale.versions import untried

    facts = describe_environment()
    facts["untried"] = untried()
    device = default_device()
    facts["device"] = str(device)
    facts["attention"] = choose("auto", device)
    facts["kernels"] = kernels_on(device)
    facts["decoding_steps"] = "CUDA graphs" if recorder(device) else "unrecorded"
    facts["programs"] = why_not() or "run in isolation, by bubblewrap"
    facts["embedded_models"] = {name: resolve_path(f"tinyworld:{name}") for name in ("llm", "large_llm", "encoder")}
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for key, value in facts.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for name, inner in value.items():
                print(f"  {name:16} {inner}")
        else:
            print(f"{key:16} {value if value != [] else 'none'}")
