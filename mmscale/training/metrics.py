"""The curves of one training: metrics.jsonl always, and trackers beside it; a resumed one goes on as if it had not stopped."""

from __future__ import annotations

import functools
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mmscale import registry
from mmscale.errors import UserError
from mmscale.progress import say
from mmscale.storage.files import atomic_write, cannot_write
from mmscale.storage.reading import parse_json
from mmscale.storage.row_log import whole_rows
from mmscale.training.training_run import TrainingRun

if TYPE_CHECKING:
    from mmscale.parallel.context import ParallelContext

ALWAYS, USUAL = "jsonl", "tensorboard"


class Tracker(ABC):
    """What is told the numbers of a training while it runs. One process of several has it."""

    @abstractmethod
    def write(self, step: int, **values: float) -> None:
        """Numbers of a step, by name; steps only grow."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more comes."""


TrackerFactory = Callable[[TrainingRun, int], Tracker]
"""(training, step it goes on from, 0 at first) -> its tracker; what was told of later steps is void."""


class Metrics(Tracker):
    """Rows {"step": n, name: value …} in metrics.jsonl of the stage's folder, always written."""

    def __init__(self, run: TrainingRun, from_step: int) -> None:
        self.path = run.folder / "metrics.jsonl"
        kept = [row for row in read_metrics(self.path) if row["step"] <= from_step]
        with atomic_write(self.path) as handle:
            handle.writelines(json.dumps(row) + "\n" for row in kept)
        self._file = open(self.path, "a", encoding="utf-8")

    def write(self, step: int, **values: float) -> None:
        try:
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def close(self) -> None:
        self._file.close()


class TensorBoard(Tracker):
    """TensorBoard's event files in the stage's folder; what is used where it is installed (extra `tracking`)."""

    def __init__(self, run: TrainingRun, from_step: int) -> None:
        if not _installed():
            raise UserError("trackers: tensorboard is not installed: pip install 'mmscale[tracking]'")
        from torch.utils.tensorboard import SummaryWriter  # imports slowly; only a run needs it

        self._writer = SummaryWriter(str(run.folder / "tensorboard"), purge_step=from_step + 1)

    def write(self, step: int, **values: float) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


def _installed() -> bool:
    return importlib.util.find_spec("tensorboard") is not None


class Trackers(Tracker):
    """metrics.jsonl and the trackers of a training, on the first rank; the others tell nobody.

    metrics.jsonl has to be written. Another tracker that fails, as one that needs a network may, is told nothing more, which is
    said: no training ends for it.
    """

    def __init__(self, run: TrainingRun, from_step: int, context: ParallelContext) -> None:
        """UserError, on every rank, where one of them cannot begin."""
        self._all: dict[str, Tracker] = {}
        context.on_first(lambda: self._begin(run, from_step))

    def _begin(self, run: TrainingRun, from_step: int) -> None:
        usual = (USUAL,) if _installed() else ()
        for name in dict.fromkeys([ALWAYS, *(usual if run.trackers is None else run.trackers)]):
            self._all[name] = _made(name, run, from_step)

    def write(self, step: int, **values: float) -> None:
        for name, tracker in list(self._all.items()):
            self._try(name, functools.partial(tracker.write, step, **values))

    def close(self) -> None:
        for name, tracker in list(self._all.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever another library does
            if name == ALWAYS:
                raise
            del self._all[name]
            say(f"tracker {name} failed ({_reason(error)}) and is told nothing more; metrics.jsonl goes on")


def _made(name: str, run: TrainingRun, from_step: int) -> Tracker:
    try:
        made = registry.get("trackers", name)(run, from_step)
    except UserError:
        raise
    except Exception as error:  # whatever another library does
        raise UserError(
            f"tracker {name} cannot begin ({_reason(error)}): mend that, or take it out of trackers"
        ) from error
    if not isinstance(made, Tracker):
        raise UserError(
            f"tracker {name} gives a {type(made).__name__} and should give a Tracker: take it out of trackers"
        )
    return made


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]:.200}"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Rows of a metrics file, damaged ones left out."""
    return list(whole_rows(path, _row, "left out"))


def _row(line: bytes, _: str) -> dict[str, float] | None:
    try:
        row = parse_json(line.decode())
    except ValueError:  # neither UTF-8 nor JSON
        return None
    numbers = isinstance(row, dict) and all(type(value) in (int, float) for value in row.values())
    return row if numbers and type(row.get("step")) is int else None
