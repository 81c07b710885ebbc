"""Progress on the terminal: a bar with rate and ETA when someone is looking, plain lines when not."""

from __future__ import annotations

import contextlib
import datetime
import logging
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False)


_LINE_SECONDS = 60.0
"""Where there is no terminal, a line so often at most."""


class Bar:
    """Handle of a running bar: `advance` it, change its `note`."""

    def __init__(
        self, title: str, total: int | None, done: int = 0, progress: Progress | None = None, lines: bool = False
    ) -> None:
        """With `lines` it says now and then how far it is; `total` is None where nobody knows."""
        self.title, self.total, self.done = title, total, done
        self._progress, self._lines = progress, lines
        self._task = TaskID(0) if progress is None else progress.add_task(title, total=total, completed=done, note="")
        self._began = self._told = time.monotonic()
        self._done_before, self._note = done, ""

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        self.done += amount
        self._note = note or self._note
        if self._progress is not None:
            fields = {} if note is None else {"note": note}
            self._progress.update(self._task, advance=amount, **fields)  # type: ignore[arg-type]
        if self._lines:
            self._tell()

    def _tell(self) -> None:
        """Say how far it is, unless that was said within the last minute."""
        now, made = time.monotonic(), self.done - self._done_before
        if now - self._told < _LINE_SECONDS:
            return
        self._told = now
        left = round((now - self._began) / made * (self.total - self.done)) if made and self.total else None
        eta = "" if left is None else f", ETA {datetime.timedelta(seconds=left)}"
        say(
            f"{self.title}: {self.done} of {self.total or 'yet unknown'}{eta}{f' ({self._note})' if self._note else ''}"
        )


@contextlib.contextmanager
def bar(title: str, total: int | None, done: int = 0, lines: bool = True) -> Iterator[Bar]:
    """A progress bar on a terminal; elsewhere a line a minute, unless something better is told there."""
    if not console.is_terminal:
        yield Bar(title, total, done, lines=lines)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(title, total, done, progress)


def say(text: str) -> None:
    """One line for the person who started the run (standard error, so that --json output stays clean), and for the log."""
    logger = logging.getLogger("mmscale")
    if logger.handlers:  # of a command (mmscale.logs)
        logger.info(text)
    else:
        console.print(text, markup=False, soft_wrap=True)


def detail(text: str) -> None:
    """One line for the log, and for the terminal of a command that was given --verbose."""
    logging.getLogger("mmscale").debug(text)
