"""Starting real ranks: one process each, meeting over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mmscale.parallel.world import free_port

ROOT = Path(__file__).resolve().parents[2]


QUIET = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **QUIET, **more}


class Rank(subprocess.Popen[str]):
    """A process whose output goes to files: nobody reads a pipe while a test waits, and a full one would stop it."""

    def __init__(self, command: list[str], more: dict[str, str]) -> None:
        self.said, self.complained = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        arguments = [sys.executable, *command]
        super().__init__(arguments, cwd=ROOT, env=environment(**more), stdout=self.said, stderr=self.complained)


def start(count: int, command: list[str]) -> list[Rank]:
    """`count` ranks of a Python command, started as a bare launcher would: each a process with its rank in variables."""
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    places = [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {} for rank in range(count)]
    return [Rank(command, place) for place in places]


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def finish(ranks: list[Rank], timeout: float = 600) -> list[tuple[int, str]]:
    """(exit code, standard error) of each rank."""
    try:
        return [(rank.wait(timeout), _text(rank.complained)) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


def run(count: int, command: list[str]) -> list[str]:
    """Standard error of ranks that all succeed."""
    return [err for _, err in _succeeding(start(count, command))]


def output(count: int, command: list[str]) -> str:
    """Standard output of the first of ranks that all succeed."""
    started = start(count, command)
    _succeeding(started)
    return _text(started[0].said)


def _succeeding(started: list[Rank]) -> list[tuple[int, str]]:
    results = finish(started)
    assert all(code == 0 for code, _ in results), "\n".join(err[-3000:] for code, err in results if code)
    return results


def wait_for(condition: Callable[[], bool], ranks: list[Rank], seconds: float = 500) -> None:
    """Until `condition` holds, while every rank is still running."""
    end = time.monotonic() + seconds
    while not condition():
        late, ended = time.monotonic() > end, any(rank.poll() is not None for rank in ranks)
        if late:
            for rank in ranks:
                rank.kill()
        assert not late and not ended, finish(ranks)
        time.sleep(0.02)
