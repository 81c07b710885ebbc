"""Where this process computes, and with whom."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from mmscale.errors import Interrupted, UserError

if TYPE_CHECKING:
    import torch

    from mmscale.config.parallel import ParallelConfig
    from mmscale.parallel.context import ParallelContext
    from mmscale.parallel.world import World


def default_device(local_rank: int = 0) -> torch.device:
    """The GPU of a local rank, else the CPU."""
    import torch

    return torch.device(f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")


def kernels_on(device: torch.device) -> dict[str, str]:
    """Which implementation of each kernel runs there; UserError when MMSCALE_KERNELS asks for what cannot be."""
    from mmscale_kernels import KernelUnavailable, implementations

    try:
        return implementations(device)
    except KernelUnavailable as error:
        raise UserError(str(error)) from error


def started() -> World:
    """The world that a launcher started this process in; only its first rank speaks."""
    from mmscale import logs
    from mmscale.parallel.world import discover

    world = discover()
    logs.set_rank(world.rank)
    return world


@contextlib.contextmanager
def joined(parallel: ParallelConfig, world: World | None = None) -> Iterator[ParallelContext]:
    """The layout of a world, by default the one that `started` finds.

    When training inside is Interrupted, a Slurm job goes back into the queue, and the process ends with exit code 0: Slurm
    would take another for a failure.
    """
    import torch
    import torch.distributed as dist

    from mmscale.parallel.context import process_groups
    from mmscale.parallel.slurm import job, requeue

    _require_extras(parallel)
    world = world or started()
    device = default_device(world.local_rank)
    kernels_on(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    minutes, degree = parallel.timeout_minutes, parallel.tensor_parallel_size
    with process_groups(world, device, minutes, degree, even_alone=parallel.zero.stage > 0) as groups:
        context = replace(groups, sequence_parallel=parallel.sequence_parallel)
        try:
            yield context
        except Interrupted as interrupted:
            context.barrier()
            if parallel.interruption.requeue and job() is not None:
                interrupted.exit_code = 0
                if context.is_first:
                    requeue()
            raise
        except dist.DistError as error:
            raise _lost(context, error) from error
        except RuntimeError as error:
            if context.size > 1 and "gloo" in str(error):  # gloo's failures have no class of their own
                raise _lost(context, error) from error
            raise


def _require_extras(parallel: ParallelConfig) -> None:
    """UserError when a library that the layout needs is not installed, or too old."""
    from importlib.util import find_spec

    from mmscale.versions import require_known_versions

    for key, wanted, packages, extra in (
        ("zero.stage", parallel.zero.stage > 0, ("deepspeed", "accelerate"), "deepspeed"),
        ("tensor_parallel_size", parallel.tensor_parallel_size > 1, ("megatron", "accelerate"), "tensor-parallel"),
    ):
        if not wanted:
            continue
        missing = [package for package in packages if find_spec(package) is None]
        if missing:
            raise UserError(
                f"parallel.{key} needs the extra {extra}: pip install 'mmscale[{extra}]' ({missing[0]} is not here)"
            )
        require_known_versions(extra)


def _lost(context: ParallelContext, error: Exception) -> UserError:
    first = str(error).strip().splitlines()[0]
    return UserError(
        f"rank {context.rank} lost the others ({first}): another rank has ended, and its own message says why; "
        f"start the same command again to go on from the last save"
    )
