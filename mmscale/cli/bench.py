"""`mmscale bench`: the modules of mmscale.benchmarks, for users: they print what they measured and keep it in a file."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from mmscale.errors import UserError, unknown_name
from mmscale.storage.files import require_folder


def _scripts() -> dict[str, Path]:
    """Name -> file of the benchmarks; the other modules help them."""
    folder = Path(str(resources.files("mmscale.benchmarks")))
    files = [file for file in sorted(folder.glob("*.py")) if "__main__" in file.read_text(encoding="utf-8")]
    return {file.stem.replace("_", "-"): file for file in files}


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="which one; without it they are listed")] = "",
    output: Annotated[Path, typer.Option(help="folder of the result file")] = Path("benchmarks/results"),
) -> None:
    """Measure something on this machine, side by side with another way of doing it.

    What follows the name goes to the benchmark, as with `python -m mmscale.benchmarks.NAME`; `mmscale bench NAME --help` lists its options.

    Example: mmscale bench train-step --json
    """
    scripts = _scripts()
    if not name:
        for known, file in scripts.items():
            print(f"{known:20} {_first_line(file)}")
        return
    if name not in scripts:
        raise unknown_name("benchmark", name, scripts)
    if "--help" not in context.args:
        require_folder(output)
    # the safe path keeps a folder of the same name, such as a checkout's, from standing before what is installed
    quiet = {"PYTHONWARNINGS": "ignore", "PYTHONSAFEPATH": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment = {**os.environ, **quiet, "MMSCALE_RESULTS": str(output.absolute())}
    command = [sys.executable, "-m", f"mmscale.benchmarks.{scripts[name].stem}", *context.args]
    done = subprocess.run(command, env=environment, check=False)
    raise typer.Exit(done.returncode)


def _first_line(file: Path) -> str:
    with open(file, encoding="utf-8") as handle:
        line = handle.readline().strip()
    if not line.startswith('"""'):
        raise UserError(f"{file} says nothing about itself: install mmscale again")
    return line.strip('"').split(": mmscale bench")[0]
