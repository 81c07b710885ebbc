"""The same command in several processes of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """Run `mmscale ARGUMENTS` as `count` ranks; when one fails the others are ended, and its exit code is returned."""
    from mmscale.parallel.world import free_port

    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "mmscale", *arguments]
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(count):
            own = {**os.environ, **world, "RANK": str(number), "LOCAL_RANK": str(number)}
            ranks.append(subprocess.Popen(command, env=own))
        while any(rank.poll() is None for rank in ranks) and not any(rank.returncode for rank in ranks):
            time.sleep(0.1)
        codes = [rank.returncode for rank in ranks if rank.returncode]
    finally:
        for rank in ranks:
            rank.terminate()
            rank.wait()
    return codes[0] if codes else 0
