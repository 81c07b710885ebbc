"""What only a GPU can show: pytest tests/gpu. Every test skips where there is none.

With pytest-xdist: pytest tests/gpu -n 8 --dist loadfile, a process a file, so that each kernel is compiled once. The kernels
come first. A line a test at the end says how far it was from what is right; MMSCALE_GPU_RESULTS names a file that keeps this.
MMSCALE_GPU_TESTS=cpu runs the same on the CPU, to see that the tests themselves are right: with TRITON_INTERPRET=1 the kernels
too, small shapes of them, but not in bfloat16, which Triton's interpreter computes wrongly.
"""

from __future__ import annotations

import os
from pathlib import Path

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


def _results(reporter) -> list[dict]:
    """Name, outcome, seconds and what was noted of each test, in the order of their names."""
    found = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in reporter.stats.get(outcome, []):
            if report.nodeid.startswith("tests/gpu/") and getattr(report, "when", None):
                row = {"name": report.nodeid.removeprefix("tests/gpu/"), "outcome": outcome}
                row |= {"seconds": round(report.duration, 2), **dict(report.user_properties)}
                if outcome == "skipped":
                    row["reason"] = report.longrepr[2].removeprefix("Skipped: ")
                elif outcome != "passed":
                    row["reason"] = str(report.longrepr)[-1500:]
                found[report.nodeid] = row
    return [found[name] for name in sorted(found)]


def pytest_terminal_summary(terminalreporter):
    results = _results(terminalreporter)
    if all(row["outcome"] == "skipped" for row in results):
        return
    terminalreporter.section("how far each test was from what is right")
    for row in (row for row in results if row["outcome"] != "skipped"):
        shown = {name: value for name, value in row.items() if name not in ("name", "outcome", "seconds", "reason")}
        noted = ", ".join(f"{name} {value}" for name, value in shown.items())
        terminalreporter.write_line(f"{row['outcome']:7} {row['seconds']:6.2f} s  {row['name']}  {noted}")
    if file := os.environ.get("MMSCALE_GPU_RESULTS"):
        made_with = {"commit": commit(), **describe_environment(), "rehearsal": REHEARSAL}
        write_json(Path(file), {"made_with": made_with, "tests": results})
