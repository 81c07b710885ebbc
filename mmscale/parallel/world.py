"""Which rank this process is, as its launcher tells: torchrun, deepspeed, srun, mpirun, or none."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn

from mmscale.errors import UserError
from mmscale.parallel.hosts import first_host

DEFAULT_PORT = 29500
"""torch.distributed's own."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among those on this node: the GPU it takes."""
    address: str = "127.0.0.1"
    """Host of rank 0."""
    port: int = DEFAULT_PORT
    launcher: str = "none"


def discover(environment: Mapping[str, str] | None = None) -> World:
    """The world of this process.

    Raises UserError where the launcher started several processes that would each be a world of their own.
    """
    variables = dict(os.environ) if environment is None else dict(environment)
    if "RANK" in variables and "WORLD_SIZE" in variables:
        world = _from_variables(variables)
    elif _mpi_size(variables) > _slurm_size(
        variables
    ):  # in an allocation mpirun starts its own servants by srun, one per node
        world = _from_mpi(variables)
    elif _slurm_size(variables) > 1 and "SLURM_PROCID" in variables:
        world = _from_slurm(variables)
    else:
        world = World()
    _require_one_world(world, variables)
    return world


def _from_variables(variables: Mapping[str, str]) -> World:
    """torchrun and deepspeed set these."""
    missing = [name for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in variables]
    if missing and int(variables["WORLD_SIZE"]) > 1:
        raise UserError(f"RANK and WORLD_SIZE are set but {missing[0]} is not: start with torchrun, srun or mpirun")
    launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in variables else "environment"
    return World(
        rank=int(variables["RANK"]),
        size=int(variables["WORLD_SIZE"]),
        local_rank=int(variables.get("LOCAL_RANK", "0")),
        address=variables.get("MASTER_ADDR", "127.0.0.1"),
        port=int(variables.get("MASTER_PORT", DEFAULT_PORT)),
        launcher=launcher,
    )


def _slurm_size(variables: Mapping[str, str]) -> int:
    """Tasks of the job step; a batch script is none."""
    return int(variables.get("SLURM_STEP_NUM_TASKS", "1"))


def _from_slurm(variables: Mapping[str, str]) -> World:
    """srun: one task a rank. The port follows from the job, so that jobs sharing a node do not meet."""
    job = int(variables.get("SLURM_JOB_ID", "0"))
    return World(
        rank=int(variables["SLURM_PROCID"]),
        size=_slurm_size(variables),
        local_rank=int(variables["SLURM_LOCALID"]),
        address=variables.get("MASTER_ADDR") or first_host(variables["SLURM_STEP_NODELIST"]),
        port=int(variables.get("MASTER_PORT") or 20000 + job % 10000),
        launcher="srun",
    )


_MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")
"""Open MPI; MPICH, Intel MPI and MVAPICH; PMIx."""


def _mpi_size(variables: Mapping[str, str]) -> int:
    return max(int(variables.get(name, "1")) for name in _MPI_SIZES)


def _from_mpi(variables: Mapping[str, str]) -> World:
    """mpirun: ranks agree through mpi4py on the first one's host and a port that is free there."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise UserError(
            "started by mpirun, but mpi4py is not installed: pip install 'mmscale[mpi]', or use torchrun"
        ) from error
    everyone = MPI.COMM_WORLD
    rank, size = everyone.Get_rank(), everyone.Get_size()
    if size != _mpi_size(variables):
        raise UserError(
            f"mpirun started {_mpi_size(variables)} processes but mpi4py sees {size}: it was built for another MPI; "
            f"reinstall mpi4py with the mpicc of this mpirun, or use torchrun"
        )
    place = everyone.bcast((socket.gethostname(), free_port()) if rank == 0 else None)
    local = everyone.Split_type(MPI.COMM_TYPE_SHARED).Get_rank()
    return World(rank=rank, size=size, local_rank=local, address=place[0], port=place[1], launcher="mpirun")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return int(listener.getsockname()[1])


_PER_NODE_LAUNCHERS = ("GROUP_WORLD_SIZE", "CROSS_SIZE")
"""On how many nodes torchrun and deepspeed know of each other; where they start the ranks, Slurm's task is the launcher."""


def _require_one_world(world: World, variables: Mapping[str, str]) -> None:
    """`deepspeed --launcher slurm` on its own starts N worlds of one rank that all train the same and succeed, and
    `srun torchrun --standalone` a world on each node.
    """
    started = max(_slurm_size(variables), _mpi_size(variables))
    launchers = [int(variables[name]) for name in _PER_NODE_LAUNCHERS if name in variables]
    if started > (min(launchers) if launchers else world.size):
        raise UserError(
            f"the launcher started {started} processes but this one belongs to a world of {world.size}, so each would "
            f"train alone: start one task a node with torchrun in it that knows the others (--nnodes and a rendezvous), or "
            f"let srun or mpirun start the ranks themselves"
        )


@contextlib.contextmanager
def exported(world: World, port: int) -> Iterator[None]:
    """This rank in the variables of torch's launchers, whoever started it: DeepSpeed and accelerate look nowhere else."""
    told = {
        "RANK": str(world.rank),
        "WORLD_SIZE": str(world.size),
        "LOCAL_RANK": str(world.local_rank),
        "MASTER_ADDR": world.address,
        "MASTER_PORT": str(port),
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def leave(code: int) -> NoReturn:
    """End this process with what a program does at its end, except taking the interpreter down.

    A thread of gloo gives back the tensors of its last collective when it comes to it, and needs the interpreter for
    that: where it is gone by then, the process aborts after its work is done ("terminate called without an active
    exception", torch 2.13), and a launcher takes the whole run for failed.
    """
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has what it asked for
        os._exit(code)
    except OSError as error:
        print(f"mmscale: standard output is incomplete: {error.strerror}", file=sys.stderr)
        code = code or 2
    sys.stderr.flush()
    os._exit(code)
