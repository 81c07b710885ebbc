"""Files that one process at a time holds, by flock(2): the kernel lets go of them when the process ends, however it does."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mmscale.errors import UserError
from mmscale.progress import say
from mmscale.storage.files import cannot_write, without_links

LOCK = ".in-use"
_UNSUPPORTED = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}
"""What a file system without locks says, as Lustre mounted without `-o flock` does."""


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """Wait until no other process holds `path`, saying so, then hold it."""
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process of this machine, which holds {path}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the one process that writes into `folder`; UserError naming the one that does already.

    On a file system without locks it says so, and guards nothing.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8", opener=without_links)
    except OSError as error:
        raise cannot_write(path, error) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            handle.seek(0)
            raise UserError(
                f"{folder} is in use by {handle.read().strip() or 'another process'}: wait for its end, stop it, "
                f"or choose another output_dir"
            ) from error
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise cannot_write(path, error) from error
            say(f"{folder}: this file system has no locks, so nothing keeps a second run from writing there")
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield
