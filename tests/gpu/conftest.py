"""What only a GPU can show: pytest tests/gpu. Every test skips where there is none.

With pytest-xdist: pytest tests/gpu -n 8 --dist loadfile, a process a file, so that each kernel is compiled once. The kernels
come first. A line a test at the end says how far it was from what is right; MMSCALE_GPU_RESULTS names a file that keeps this.
MMSCALE_GPU_TESTS=cpu runs the same on the CPU, to see that the tests themselves are right: with TRITON_INTERPRET=1 the kernels
too, small shapes of them, but not in bfloat16, which Triton's interpreter computes wrongly.
"""

from __future__ import annotations

import functools
import os
import platform
from pathlib import Path
from typing import Any

import pytest
import torch
from mmscale_kernels.dispatch import SWITCH

from benchmarks.recording import commit
from mmscale.runs.environment import describe_environment
from mmscale.storage.files import write_json

REHEARSAL = os.environ.get("MMSCALE_GPU_TESTS") == "cpu"


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """Where everything runs."""
    if REHEARSAL:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device (MMSCALE_GPU_TESTS=cpu rehearses these tests on the CPU)")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS refuses deterministic algorithms
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def usual_implementations(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)


@pytest.fixture
def near(record_property):
    """near(distance, bound): holds the distance below its bound, and keeps both for the summary."""

    def held(distance: float, bound: float) -> None:
        record_property("distance", f"{distance:.1e}")
        record_property("bound", f"{bound:.0e}")
        assert distance < bound, f"{distance:.2e} from what is right, and {bound:.0e} is allowed"

    return held


class Results:
    """Outcome, seconds and what was noted of each test; written as soon as one has ended, since a lent GPU may go first."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.file = os.environ.get("MMSCALE_GPU_RESULTS")

    def pytest_runtest_logreport(self, report) -> None:
        if not report.nodeid.startswith("tests/gpu/"):
            return
        row = self.rows.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0})
        row["seconds"] = round(row["seconds"] + report.duration, 2)
        row |= dict(report.user_properties)
        if not report.passed:
            row |= {"outcome": report.outcome, "reason": _reason(report)}
        if report.when == "teardown" and self.file:
            self._write(Path(self.file))

    def pytest_collectreport(self, report) -> None:
        """A file that skips as a whole, or cannot be read."""
        if report.nodeid.startswith("tests/gpu/") and not report.passed:
            self.rows[report.nodeid] = {"outcome": report.outcome, "seconds": 0.0, "reason": _reason(report)}

    def _write(self, file: Path) -> None:
        tests = [{"name": name, **self.rows[name]} for name in sorted(self.rows)]
        write_json(file, {"made_with": self._made_with, "rehearsal": REHEARSAL, "tests": tests})

    @functools.cached_property
    def _made_with(self) -> dict[str, Any]:
        return {"commit": commit(), **describe_environment(), "system": platform.system()}

    def pytest_terminal_summary(self, terminalreporter) -> None:
        ran = {name: self.rows[name] for name in sorted(self.rows) if self.rows[name]["outcome"] != "skipped"}
        if ran:
            terminalreporter.section("how far each test was from what is right")
        for name, row in ran.items():
            noted = (f"{key} {value}" for key, value in row.items() if key not in ("outcome", "seconds", "reason"))
            terminalreporter.write_line(
                f"{row['outcome']:7}{row['seconds']:7.2f} s  {name.removeprefix('tests/gpu/')}  {', '.join(noted)}"
            )


def _reason(report) -> str:
    if report.skipped:
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    return str(report.longrepr)[-1500:]


def pytest_configure(config) -> None:
    if not hasattr(config, "workerinput"):  # workers of pytest-xdist report to the process that started them
        config.pluginmanager.register(Results())
