"""What a Slurm cluster is like: one YAML file per cluster, shared by every configuration that runs there."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from mmscale.config.base import Config
from mmscale.config.documents import find_config, read_document
from mmscale.config.mistakes import mistakes

_TIME = re.compile(r"(\d+-)?\d{1,2}(:\d{2}){0,2}$|\d+$")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*$")


def _time_limit(value: str) -> str:
    if not _TIME.match(value):
        raise ValueError("give the time limit as minutes, HH:MM:SS or D-HH:MM:SS")
    return value


def _sbatch_options(value: tuple[str, ...]) -> tuple[str, ...]:
    for line in value:
        if not line.startswith("--") or "\n" in line:
            raise ValueError(f"'{line}' is no sbatch option: one option a line, starting with --")
    return value


class GpuConfig(Config):
    """What a GPU and its connections can do, from their datasheets; the defaults are an H100 SXM's with NDR InfiniBand."""

    memory_gib: float = Field(default=80 * 1e9 / 2**30, gt=0)
    """Memory of a GPU; the default is 80 GB."""
    peak_tflops: float = Field(default=989.4, gt=0)
    """Peak speed of dense bfloat16 products."""
    memory_gbytes: float = Field(default=3350, gt=0)
    """GB/s that a GPU reads and writes its own memory with."""
    link_gbytes: float = Field(default=450, gt=0)
    """GB/s to the other GPUs of the node, one way: NVLink's 900 GB/s are both ways."""
    network_gbytes: float = Field(default=50, gt=0)
    """GB/s per GPU to other nodes, one way: 400 Gb/s."""


class ScoresJobConfig(Config):
    """The job that makes scores and a report of what the models answered: one CPU, whatever the others take."""

    time: str = "00:30:00"
    """Time limit, as sbatch --time takes it."""
    partition: str | None = None
    """Partition; null takes that of the other jobs, which may not let jobs in that use no GPU."""
    memory: str | None = None
    """Memory, as sbatch --mem takes it."""
    extra_sbatch: tuple[str, ...] = ()
    """More #SBATCH lines of this job alone: those of the others ask for whole nodes."""

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        return _time_limit(value)

    @field_validator("extra_sbatch")
    @classmethod
    def _are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _sbatch_options(value)


class TasksJobConfig(Config):
    """One task of `mmscale corpus`: `cpus_per_rank` CPUs, and one GPU where it computes on one, whatever the nodes hold."""

    time: str | None = None
    """Time limit, as sbatch --time takes it; null takes that of the other jobs."""
    partition: str | None = None
    """Partition; null takes that of the other jobs."""
    memory: str | None = None
    """Memory, as sbatch --mem takes it; null leaves it to the cluster."""
    extra_sbatch: tuple[str, ...] = ()
    """More #SBATCH lines of these jobs alone: those of the others ask for whole nodes."""

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str | None) -> str | None:
        return None if value is None else _time_limit(value)

    @field_validator("extra_sbatch")
    @classmethod
    def _are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _sbatch_options(value)


class ClusterConfig(Config):
    """Everything `mmscale launch` has to know to write a batch script."""

    nodes: int = Field(ge=1)
    """Nodes of a job."""
    gpus_per_node: int = Field(ge=0)
    """GPUs of a node; 0 for a cluster without GPUs."""
    gpu: GpuConfig = GpuConfig()
    """What one GPU can do; `mmscale plan` reads it."""
    ranks_per_node: int | None = Field(default=None, ge=1)
    """Processes per node; null takes one per GPU."""
    cpus_per_rank: int = Field(default=8, ge=1)
    """CPU cores of each process."""
    launcher: Literal["srun", "torchrun", "deepspeed"] = "srun"
    """What starts the ranks of a node: srun each of them, or one torchrun or deepspeed that srun starts there."""
    time: str = "24:00:00"
    """Limit of a job, as sbatch --time takes it."""
    partition: str | None = None
    """As sbatch --partition takes it."""
    account: str | None = None
    """As sbatch --account takes it."""
    qos: str | None = None
    """As sbatch --qos takes it."""
    memory: str | None = None
    """Memory of a node, as sbatch --mem takes it."""
    network_interface: str | None = None
    """Which one NCCL and gloo use, where a node has several: ib0, eth0."""
    modules: tuple[str, ...] = ()
    """Environment modules to load."""
    container: str | None = None
    """Image for srun --container-image (pyxis)."""
    container_mounts: tuple[str, ...] = ()
    """HOST:CONTAINER folders, as srun --container-mounts takes them."""
    setup: tuple[str, ...] = ()
    """Shell lines before training starts, run as they are: activating an environment, for example."""
    python: str = "python"
    """The interpreter that has mmscale, on the nodes."""
    environment: dict[str, str] = {}
    """Environment variables of every rank."""
    signal_seconds: int = Field(default=300, ge=30)
    """How long before the end Slurm sends SIGUSR1; half a minute of it is Slurm's own slack."""
    extra_sbatch: tuple[str, ...] = ()
    """More #SBATCH lines, without that word: "--exclusive"."""
    scores: ScoresJobConfig = ScoresJobConfig()
    """The job that makes scores and report."""
    tasks: TasksJobConfig = TasksJobConfig()
    """The jobs that share the work of `mmscale corpus`; nodes times ranks of them run at the same time."""

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        return _time_limit(value)

    @field_validator("environment")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not _NAME.match(name):
                raise ValueError(f"'{name}' is no name of an environment variable")
        return value

    @field_validator("extra_sbatch")
    @classmethod
    def _are_options(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _sbatch_options(value)

    @property
    def ranks_on_node(self) -> int:
        return self.ranks_per_node or max(1, self.gpus_per_node)


def load_cluster(name: str) -> ClusterConfig:
    """A cluster's description from a YAML file, or one that ships with mmscale; UserError names file and key."""
    document = read_document(find_config(name))
    try:
        return ClusterConfig.model_validate(document.values)
    except ValidationError as error:
        raise mistakes(ClusterConfig, error, document) from error
