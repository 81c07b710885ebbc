"""Process groups of a run. They are made here once and passed on; nothing reads a global group."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from mmscale.errors import UserError
from mmscale.parallel.world import World, free_port


@dataclass(frozen=True)
class Layout:
    """This process's place and the groups it talks in; a group is None where it would hold this rank alone."""

    device: torch.device
    rank: int = 0
    size: int = 1
    data_group: Any = None
    """Ranks that share the examples of a step."""
    data_rank: int = 0
    data_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The values summed over all ranks, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM)

    def maximum(self, values: list[float]) -> list[float]:
        """The largest of each value over all ranks."""
        return self._reduce(values, dist.ReduceOp.MAX)

    def _reduce(self, values: list[float], operation: Any) -> list[float]:
        if self.data_group is None:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, operation, group=self.data_group)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """What every rank holds, in rank order; plain numbers, strings, lists and dicts only."""
        if self.data_group is None:
            return [value]
        found: list[Any] = [None] * self.data_size
        dist.all_gather_object(found, value, group=self.data_group)
        return found

    def barrier(self) -> None:
        self.gather(0)

    def on_first(self, action: Callable[[], object]) -> None:
        """Let the first rank do something while the others wait; its UserError is raised on every rank."""
        problem = None
        if self.is_first:
            try:
                action()
            except UserError as error:
                problem = str(error)
        self.agree(problem)

    def agree(self, problem: str | None) -> None:
        """UserError on every rank when any of them has a problem; ranks must not part ways."""
        problems = [(rank, text) for rank, text in enumerate(self.gather(problem)) if text]
        if problems:
            rank, text = problems[0]
            raise UserError(text if self.size == 1 else f"rank {rank}: {text}")


@contextlib.contextmanager
def process_groups(
    world: World, device: torch.device, timeout_minutes: float, even_alone: bool = False
) -> Iterator[Layout]:
    """The layout of a world; its process groups live as long as the context.

    One rank needs none, unless `even_alone` says that a library asks for them (DeepSpeed does).
    """
    if world.size == 1 and not even_alone:
        yield Layout(device)
        return
    port = world.port if world.size > 1 else free_port()
    try:
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{world.address}:{port}",
            rank=world.rank,
            world_size=world.size,
            timeout=datetime.timedelta(minutes=timeout_minutes),
        )
    except (RuntimeError, ValueError) as error:  # torch's DistError is a RuntimeError
        raise UserError(
            f"rank {world.rank} of {world.size} cannot meet the others at {world.address}:{port} "
            f"({str(error).splitlines()[0]}): free that port or set MASTER_PORT, and check that the host is reachable"
        ) from error
    try:
        group = dist.new_group(list(range(world.size)), timeout=datetime.timedelta(minutes=timeout_minutes))
        yield Layout(device, world.rank, world.size, group, world.rank, world.size)
    finally:
        dist.destroy_process_group()
