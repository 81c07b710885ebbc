"""Process groups of a run. They are made here once and passed on; nothing reads a global group."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from mmscale.errors import UserError
from mmscale.parallel.world import World, exported, free_port
from mmscale.storage.locks import alone_in


@dataclass(frozen=True, kw_only=True)
class ParallelContext:
    """This process's place and the groups it talks in; groups are None in a process without others.

    Ranks of a tensor group are neighbours, on one node where the degree allows: rank = data_rank * tensor_size +
    tensor_rank.
    """

    device: torch.device
    rank: int = 0
    size: int = 1
    world_group: Any = None
    data_group: Any = None
    """Ranks that share the examples of a step, and hold the same parameters."""
    data_rank: int = 0
    data_size: int = 1
    tensor_group: Any = None
    """Ranks that share the parameters, and see the same examples."""
    tensor_rank: int = 0
    tensor_size: int = 1
    sequence_parallel: bool = False
    """Whether the tensor group also shares the tokens between its layers."""

    @property
    def is_first(self) -> bool:
        """Whether this rank speaks and writes for all."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The values summed over the ranks that share the examples, in float64."""
        return self._reduce(values, dist.ReduceOp.SUM, self.data_group, self.data_size)

    def maximum(self, values: list[float]) -> list[float]:
        """The largest of each value over all ranks."""
        return self._reduce(values, dist.ReduceOp.MAX, self.world_group, self.size)

    def _reduce(self, values: list[float], operation: Any, group: Any, size: int) -> list[float]:
        if size == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, operation, group=group)
        return total.tolist()

    def gather(self, value: Any) -> list[Any]:
        """What every rank holds, in rank order; plain numbers, strings, lists and dicts only."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.world_group)
        return values

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

    def from_first(self, action: Callable[[], Any]) -> Any:
        """What the first rank finds, on every rank; plain values only. Its UserError is raised on every rank."""
        value: list[Any] = []
        self.on_first(lambda: value.append(action()))
        return self.gather(value)[0][0]

    def in_turns(self, tasks: Sequence[Callable[[], Any]]) -> list[Any]:
        """What each task returns, on every rank; plain values only. Each is done by one rank, as many at a time as there
        are, and ranks meet after every turn: nobody waits in a collective for more than one task. A UserError is raised on
        every rank.
        """
        results: list[Any] = []
        for begin in range(0, len(tasks), self.size):
            turn, value, problem = tasks[begin : begin + self.size], None, None
            if self.rank < len(turn):
                try:
                    value = turn[self.rank]()
                except UserError as error:
                    problem = str(error)
            self.agree(problem)
            results += self.gather(value)[: len(turn)]
        return results

    def agree(self, problem: str | None) -> None:
        """UserError on every rank when any of them has a problem; ranks must not part ways."""
        problems = [(rank, text) for rank, text in enumerate(self.gather(problem)) if text]
        if problems:
            rank, text = problems[0]
            raise UserError(text if self.size == 1 else f"rank {rank}: {text}")

    @contextlib.contextmanager
    def alone_in(self, folder: Path) -> Iterator[None]:
        """Be the one run that writes into a folder: the first rank holds it; UserError on every rank when another does."""
        with contextlib.ExitStack() as held:
            self.on_first(lambda: held.enter_context(alone_in(folder)))
            yield


@contextlib.contextmanager
def process_groups(
    world: World, device: torch.device, timeout_minutes: float, tensor_size: int = 1, even_alone: bool = False
) -> Iterator[ParallelContext]:
    """The layout of a world; its process groups live as long as the context.

    One rank needs none, unless `even_alone` says that a library asks for them (DeepSpeed does). Raises UserError
    when `tensor_size` does not divide the number of ranks.
    """
    if world.size % tensor_size:
        fitting = ", ".join(str(n) for n in range(1, world.size + 1) if world.size % n == 0)
        raise UserError(
            f"parallel.tensor_parallel_size={tensor_size} does not divide {world.size} ranks: use one of {fitting}, "
            f"or start another number of ranks"
        )
    if world.size == 1 and not even_alone:
        yield ParallelContext(device=device)
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
        with exported(world, port):
            yield grouped(world, device, datetime.timedelta(minutes=timeout_minutes), tensor_size)
    finally:
        dist.destroy_process_group()


def grouped(world: World, device: torch.device, timeout: datetime.timedelta, tensor_size: int) -> ParallelContext:
    """The layout with its groups; every rank makes every group, in the same order, as torch demands."""
    data_size = world.size // tensor_size
    data_rank, tensor_rank = divmod(world.rank, tensor_size)
    ranks = list(range(world.size))
    everybody = dist.new_group(ranks, timeout=timeout)
    same_data = [dist.new_group(ranks[d * tensor_size :][:tensor_size], timeout=timeout) for d in range(data_size)]
    same_part = [dist.new_group(ranks[t::tensor_size], timeout=timeout) for t in range(tensor_size)]
    return ParallelContext(
        device=device,
        rank=world.rank,
        size=world.size,
        world_group=everybody,
        data_group=same_part[tensor_rank],
        data_rank=data_rank,
        data_size=data_size,
        tensor_group=same_data[data_rank],
        tensor_rank=tensor_rank,
        tensor_size=tensor_size,
    )
