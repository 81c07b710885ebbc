"""Starting real ranks: one process each, meeting over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmscale.parallel.world import free_port

ROOT = Path(__file__).resolve().parents[2]


QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **QUIET, **more}


def start(count: int, command: list[str]) -> list[subprocess.Popen[str]]:
    """`count` ranks of a Python command, started as a bare launcher would: each a process with its rank in variables."""
    port = str(free_port())
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env=environment(**world, RANK=str(rank), LOCAL_RANK=str(rank)) if count > 1 else environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def finish(ranks: list[subprocess.Popen[str]], timeout: float = 300) -> list[tuple[int, str]]:
    """(exit code, standard error) of each rank."""
    try:
        return [(rank.returncode, err) for rank in ranks for _, err in [rank.communicate(timeout=timeout)]]
    finally:
        for rank in ranks:
            rank.kill()


def run(count: int, command: list[str]) -> list[str]:
    """Standard error of ranks that all succeed."""
    results = finish(start(count, command))
    assert all(code == 0 for code, _ in results), "\n".join(err[-3000:] for code, err in results if code)
    return [err for _, err in results]


def wait_for(condition: Callable[[], bool], ranks: list[subprocess.Popen[str]], seconds: float = 200) -> None:
    """Until `condition` holds, while every rank is still running."""
    end = time.monotonic() + seconds
    while not condition():
        late, ended = time.monotonic() > end, any(rank.poll() is not None for rank in ranks)
        if late:
            for rank in ranks:
                rank.kill()
        assert not late and not ended, finish(ranks)
        time.sleep(0.02)
