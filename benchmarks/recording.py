"""Keeps what a benchmark measured: benchmarks/results/NAME.json, with hardware, versions, commit and command."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from mmscale.runs.environment import describe_environment
from mmscale.storage.files import write_json

RESULTS = Path(os.environ.get("MMSCALE_RESULTS") or Path(__file__).parent / "results")
"""`mmscale bench --output` chooses another folder."""


def record(name: str, values: dict[str, Any]) -> Path:
    """Write a result file."""
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    words = [Path(word).name if word.startswith("/") else word for word in sys.argv[1:]]  # no folder of this machine
    made_with = {"command": ["python", script, *words], "commit": commit(), **describe_environment()}
    made_with["system"] = platform.system()  # its release says more of a workplace than of a measurement
    path = RESULTS / f"{name}.json"
    write_json(path, {"made_with": made_with, **values})
    return path


def commit() -> str:
    """Empty outside a repository, and where git is not installed."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    except OSError:
        return ""
    return found.stdout.strip()
