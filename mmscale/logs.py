"""What a command tells: on the terminal what its user has to know, in the run directory's file of this rank everything.

Warnings of other libraries go to the file alone, their errors to both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections import deque
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from mmscale import __version__
from mmscale.progress import console
from mmscale.storage.files import cannot_write, without_links

LOGGER = logging.getLogger("mmscale")
FOLDER = "logs"
"""Folder of a run directory."""
FILE_ONLY = {"file_only": True}
"""`extra` of what the terminal need not show."""
_SPEAKERS = ("transformers", "datasets", "huggingface_hub", "torch", "DeepSpeed")
"""Libraries whose loggers write to the terminal by themselves."""
_EARLY = 500
"""Records kept until there is a file."""
_FORMAT = "%(asctime)s %(levelname)s rank %(rank)d: %(message)s"
_THEIR_FORMAT = "%(asctime)s %(levelname)s rank %(rank)d: %(name)s: %(message)s"
_TIME = "%Y-%m-%d %H:%M:%S"


class _Logger(logging.Logger):
    """A logger that hands everything up where its library would write to the terminal by itself."""

    def addHandler(self, handler: logging.Handler) -> None:
        if not (self._speaks and _writes_to_terminal(handler)):
            super().addHandler(handler)

    @property
    def _speaks(self) -> bool:
        return self.name.split(".")[0] in _SPEAKERS

    @property
    def propagate(self) -> bool:
        return self._speaks or bool(self.__dict__.get("propagate", True))

    @propagate.setter
    def propagate(self, value: bool) -> None:
        self.__dict__["propagate"] = value


def _writes_to_terminal(handler: logging.Handler) -> bool:
    return isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)


class _Lines(logging.Formatter):
    """Ours without, theirs with the name of the logger."""

    def __init__(self) -> None:
        super().__init__(_FORMAT, _TIME)
        self._theirs = logging.Formatter(_THEIR_FORMAT, _TIME)

    def format(self, record: logging.LogRecord) -> str:
        record.rank = _rank
        return (super().format(record) if _is_ours(record) else self._theirs.format(record)).rstrip()


class _Terminal(logging.Handler):
    """Standard error: above a running bar on a terminal, and in full lines where it is none. Only the first rank's, but for
    errors."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "file_only", False) or (_rank and record.levelno < logging.ERROR):
            return
        if console.quiet or not console.is_terminal:
            print(self.format(record), file=sys.stderr, flush=True)
            return
        label = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        console.print(label + record.getMessage(), markup=False, soft_wrap=True)


class _Early(logging.Handler):
    """The last records, until there is a file for them."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=_EARLY)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _File(logging.FileHandler):
    """A log file; a disk that is full costs its lines and not the run."""

    def _open(self) -> TextIOWrapper:
        return open(self.baseFilename, "a", encoding=self.encoding, opener=without_links)

    def handleError(self, record: logging.LogRecord) -> None:
        if not getattr(self, "_told", False):
            self._told = True
            print(f"mmscale: cannot write {self.baseFilename}: {sys.exc_info()[1]}; lines are lost", file=sys.stderr)


_rank = 0
_early = _Early()


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == LOGGER.name


@contextlib.contextmanager
def session() -> Iterator[None]:
    """Everything that is logged inside reaches the terminal, and the files that `to_folder` opens."""
    global _rank
    root, terminal, theirs = logging.getLogger(), _Terminal(), _Terminal(logging.ERROR)
    theirs.addFilter(lambda record: not _is_ours(record))
    before, _rank = list(root.handlers), 0
    for handler in (terminal, theirs):
        handler.setFormatter(_Lines())
    _early.records.clear()
    LOGGER.addHandler(terminal)
    root.addHandler(theirs)
    root.addHandler(_early)
    choose_level()
    logging.setLoggerClass(_Logger)
    _silence_speakers()
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        logging.setLoggerClass(logging.Logger)
        LOGGER.removeHandler(terminal)
        for added in [handler for handler in root.handlers if handler not in before]:
            root.removeHandler(added)
            added.close()
        console.quiet = False


def _silence_speakers() -> None:
    """Those that are imported already; `session` takes care of those that will be."""
    for name in [*_SPEAKERS, *logging.root.manager.loggerDict]:
        speaker = logging.getLogger(name)
        if name.split(".")[0] in _SPEAKERS:
            speaker.handlers = [handler for handler in speaker.handlers if not _writes_to_terminal(handler)]
            speaker.__class__ = _Logger


def choose_level(verbose: bool = False, quiet: bool = False) -> None:
    """What the terminal shows: by default what the user has to know; with `verbose` details and other libraries' warnings;
    with `quiet` warnings and errors of ours, and no bars.
    """
    LOGGER.setLevel(logging.DEBUG)
    for handler in LOGGER.handlers:
        handler.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Terminal):
            handler.setLevel(logging.WARNING if verbose else logging.ERROR)
    console.quiet = quiet


def set_rank(rank: int) -> None:
    """Which rank the lines are of; only the first one speaks on the terminal."""
    global _rank
    _rank = rank
    console.quiet = console.quiet or rank != 0


def to_folder(run_directory: Path) -> None:
    """Write everything from here on, and what was logged before, into the run's file of this rank as well; a file that is
    there is gone on with."""
    if not LOGGER.handlers:  # outside of a session: a Python program logs as it likes
        return
    path = run_directory / FOLDER / f"rank-{_rank}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = _File(path, encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from error
    file.setFormatter(_Lines())
    file.addFilter(lambda record: _is_ours(record) or record.levelno >= logging.WARNING)
    root = logging.getLogger()
    root.removeHandler(_early)
    root.addHandler(file)
    command = " ".join(sys.argv[1:])
    note(f"mmscale {__version__} on {socket.gethostname()}, process {os.getpid()}: {command:.2000}")
    for record in _early.records:
        file.handle(record)


def note(text: str, level: int = logging.INFO) -> None:
    """A line for the file alone."""
    LOGGER.log(level, text, extra=FILE_ONLY)
