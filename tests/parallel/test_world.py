"""Every launcher's rank is found; worlds of one that should be worlds of many are refused."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mmscale.errors import UserError
from mmscale.parallel.world import World, discover, exported

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "1234",
    "TORCHELASTIC_RUN_ID": "x",
}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_JOB_ID": "12",
}


def test_alone():
    assert discover({}) == World()


def test_torchrun():
    assert discover(TORCHRUN) == World(rank=3, size=4, local_rank=1, address="n1", port=1234, launcher="torchrun")


def test_srun_takes_the_first_node_and_a_port_of_the_job():
    assert discover(SRUN) == World(rank=3, size=4, local_rank=1, address="n1", port=20012, launcher="srun")


def test_srun_starting_torchrun_belongs_to_torchrun():
    once_a_node = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "GROUP_WORLD_SIZE": "2"}
    assert discover({**once_a_node, **TORCHRUN}).launcher == "torchrun"


def test_a_batch_script_is_no_rank():
    """sbatch sets SLURM_PROCID=0 and SLURM_NTASKS for the script itself, which is one process."""
    assert discover({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "1"}) == World()


@pytest.mark.parametrize(
    "environment",
    [
        {**SRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "n1", "MASTER_PORT": "1"},
        {"PMI_SIZE": "4", "PMI_RANK": "2", "RANK": "0", "WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_SIZE": "2", "RANK": "0", "WORLD_SIZE": "1"},
        {**SRUN, **TORCHRUN, "SLURM_STEP_NUM_TASKS": "2", "GROUP_WORLD_SIZE": "1"},
        {**SRUN, **TORCHRUN, "SLURM_STEP_NUM_TASKS": "2", "CROSS_SIZE": "1"},
    ],
    ids=["srun", "mpich", "openmpi", "a torchrun a node", "a deepspeed a node"],
)
def test_many_worlds_of_one_are_refused(environment):
    with pytest.raises(UserError, match="each would train alone"):
        discover(environment)


def test_half_a_torchrun_environment_is_refused():
    with pytest.raises(UserError, match="MASTER_ADDR is not"):
        discover({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})


def test_mpirun_in_an_allocation_belongs_to_mpirun():
    """It starts a servant on each node by srun, whose variables every rank inherits; what they say of ranks is wrong."""
    pytest.importorskip("mpi4py", reason="extra mpi")
    servants = {**SRUN, "SLURM_STEP_NUM_TASKS": "2"}
    with pytest.raises(UserError, match="mpirun started 4 processes but mpi4py sees 1"):  # of this test's own MPI
        discover({**servants, "PMI_SIZE": "4", "PMI_RANK": "2"})


def test_a_rank_is_told_to_libraries_that_read_the_variables_of_torch(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "elsewhere")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with exported(World(rank=3, size=4, local_rank=1, address="n1", port=5, launcher="srun"), 6):
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        assert [os.environ[name] for name in names] == ["3", "4", "1", "n1", "6"]
        assert discover() == World(rank=3, size=4, local_rank=1, address="n1", port=6, launcher="environment")
    assert os.environ["MASTER_ADDR"] == "elsewhere" and "LOCAL_RANK" not in os.environ


def ended(code: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """A program whose output is held back until its end, as it is for a pipe."""
    command = [sys.executable, "-c", f"from mmscale.parallel.world import leave\n{code}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": ""}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment)


def test_a_process_leaves_with_its_code_and_all_it_had_to_say():
    result = ended("import atexit; atexit.register(print, 'last words')\nprint('said')\nleave(3)")
    assert (result.returncode, result.stdout, result.stderr) == (3, "said\nlast words\n", "")


def test_a_process_leaves_without_taking_the_interpreter_down():
    """Or a thread of gloo that gives back its last tensor would abort it."""
    result = ended("class Kept:\n    def __del__(self): print('torn down', flush=True)\nkept = Kept()\nleave(0)")
    assert (result.returncode, result.stdout) == (0, "")


def test_output_that_cannot_be_written_is_no_success():
    with open("/dev/full", "w") as full:
        result = ended("print('said')\nleave(0)", full.fileno())
    assert (result.returncode, result.stderr) == (
        2,
        "mmscale: standard output is incomplete: No space left on device\n",
    )


def test_a_reader_that_has_enough_is_no_fault():
    reader, writer = os.pipe()
    os.close(reader)
    result = ended("print('said')\nleave(0)", writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
