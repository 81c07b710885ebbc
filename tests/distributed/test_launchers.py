"""launch/train.py finds its rank under real launchers; the result is that of ranks started by hand."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.distributed import ranks
from tests.distributed.mapping_run import command, final, losses

BIN = Path(sys.executable).parent
LAUNCHERS = {
    "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc-per-node", "2"],
    "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2"],
    "mpirun": [str(BIN / "mpirun"), "-n", "2", sys.executable],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_makes_one_world_of_two(tmp_path, undisturbed, launcher):
    if launcher == "mpirun":
        pytest.importorskip("mpi4py", reason="extra mpi")
    if launcher == "deepspeed":
        pytest.importorskip("deepspeed", reason="extra deepspeed")
    if shutil.which(LAUNCHERS[launcher][0]) is None:
        pytest.skip(f"{launcher} is not installed")
    started = [*LAUNCHERS[launcher], *command(tmp_path)]
    done = subprocess.run(started, cwd=ranks.ROOT, env=ranks.environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    expected, found = final(undisturbed), final(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses(tmp_path) == losses(undisturbed)
    assert done.stdout.count("mindmerger.mapping/model") == 1, "one rank speaks"


def test_worlds_of_one_are_refused(tmp_path):
    """mpirun around processes that each believe to be alone: what `deepspeed --launcher slurm` does by itself."""
    mpirun = LAUNCHERS["mpirun"][0]
    if shutil.which(mpirun) is None:
        pytest.skip("mpirun is not installed")
    alone = ranks.environment(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="1")
    started = [mpirun, "-n", "2", sys.executable, *command(tmp_path)]
    done = subprocess.run(started, cwd=ranks.ROOT, env=alone, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "each would train alone" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "stages").exists()
