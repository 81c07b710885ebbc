"""A real Slurm controller with virtual nodes on this machine: network, host name and processes of their own.

Needs root and Debian's slurm-wlm, munge and iproute2; the scripts beside this start and stop it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "slurm"
NEEDED = ("slurmctld", "munged", "ip", "unshare")
needs_slurm = pytest.mark.skipif(
    os.geteuid() != 0 or any(shutil.which(c, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None for c in NEEDED),
    reason="needs root and the packages slurm-wlm, munge, iproute2",
)


def script(name: str, *arguments: str) -> None:
    """Run one of the scripts on the cluster that is up; of two nodes, where nobody says how many."""
    environment = {"SL_NODES": "2", **os.environ, "SL_ID": "mm", "SL_CPUS": "2"}
    subprocess.run([str(SCRIPTS / name), *arguments], env=environment, check=True, capture_output=True, timeout=120)


@contextlib.contextmanager
def virtual_cluster(nodes: int, prepare: Callable[[Path], None] = lambda _: None) -> Iterator[Path]:
    """The folder of a cluster of nodes n1, n2, …; munge wants every folder above its socket readable."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    folder.chmod(0o755)
    named = {"SL_DIR": str(folder), "SLURM_CONF": str(folder / "etc" / "slurm.conf"), "SL_NODES": str(nodes)}
    os.environ.update(named)
    prepare(folder)
    script("slurm-up.sh")
    yield folder
    script("slurm-down.sh")
    shutil.rmtree(folder)
    for name in named:
        del os.environ[name]
