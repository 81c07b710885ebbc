"""Writing files whole or not at all (temporary file, fsync, rename)."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from mmscale.errors import UserError


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot_write(path: Path, error: OSError) -> UserError:
    """What to tell when a disk is full or a folder closed."""
    reason = "it is a link" if error.errno == errno.ELOOP else error.strerror or str(error)
    return UserError(f"cannot write {path}: {reason}; free space or choose another output_dir, then run again")


def _require_place_for_file(path: Path) -> None:
    """UserError where no file can take the place of what lies there: a folder, or a device, which a rename would remove."""
    if not path.name:
        raise UserError(f"'{path}' names no file to write")
    if path.exists() and not path.is_file():
        raise UserError(
            f"cannot write {path}: it is {'a folder' if path.is_dir() else 'no regular file'}, name another"
        )


def without_links(path: str, flags: int) -> int:
    """How to open (`opener=`) a file of a folder that somebody else may have made: a link in its place is not followed."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary neighbour of `path`; on success it is fsynced and renamed over `path`, a link included.

    Raises UserError when the disk is full or the folder cannot be written; `path` then is as before.
    """
    path = Path(path)
    _require_place_for_file(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        _sync_directory(path.parent)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # its folder is none, as was just told
            temporary.unlink(missing_ok=True)


def require_folder(path: Path) -> None:
    """Make a folder; UserError, before the work that is to be kept there, where no file can be written into it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise cannot_write(path, error) from error


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Lines at the end of a file, on the disk when this returns; UserError when there is no room or no permission."""
    try:
        with open(path, "a", encoding="utf-8", opener=without_links) as handle:
            handle.writelines(lines)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise cannot_write(path, error) from error


def write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def temporary_path(path: Path) -> Path:
    """The neighbour of `path` that is filled before `publish_directory`."""
    return path.with_name(f".{path.name}.tmp")


def make_temporary(path: Path) -> Path:
    """The temporary neighbour of `path`, made anew and empty."""
    temporary = temporary_path(path)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(path, error) from error
    return temporary


def sync_tree(folder: Path, names: Iterable[str]) -> None:
    """Put files of a folder, and their entries in it, on the disk."""
    for name in names:
        with open(folder / name, "rb") as handle:
            os.fsync(handle.fileno())
    _sync_directory(folder)


def publish_directory(temporary: Path, path: Path) -> None:
    """Rename a filled, synced folder to `path`, in place of what stood there; UserError when it cannot be."""
    previous = path.with_name(f".{path.name}.previous")
    try:
        _sync_directory(temporary)
        shutil.rmtree(previous, ignore_errors=True)
        if path.exists():
            os.rename(path, previous)
        os.rename(temporary, path)
        _sync_directory(path.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def write_directory(path: Path, fill: Callable[[Path], None]) -> None:
    """Make directory `path` whole: `fill` writes into a temporary neighbour, which then takes its place.

    A reader sees the old directory or the new one. Should the process die between the two renames,
    `recover_directory` puts the old one back.
    """
    temporary = make_temporary(path)
    try:
        fill(temporary)
        sync_tree(temporary, (str(p.relative_to(temporary)) for p in sorted(temporary.rglob("*")) if p.is_file()))
        publish_directory(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:  # of an error, or of a signal
        shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(path: Path) -> None:
    """Undo a `write_directory` that died between its two renames."""
    previous = path.with_name(f".{path.name}.previous")
    if not path.exists() and previous.exists():
        os.rename(previous, path)


def user_cache() -> Path:
    """Where this user's results of any run are kept: `MMSCALE_CACHE`, else mmscale in the cache folder of the desktop's standard."""
    root = os.environ.get("MMSCALE_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "mmscale")
    return Path(root).expanduser()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest(content: object) -> str:
    """The first 16 hexadecimal digits of SHA-256 over content's JSON, keys in order: names work by what decides its result."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def first_change(before: Mapping[str, str], now: Mapping[str, str]) -> str | None:
    """The first file of two sets of digests (by name) that is not the same in both, and how; None where all are."""
    for name in sorted(before.keys() | now.keys()):
        if now.get(name) != before.get(name):
            return f"{name} {'differs' if name in now and name in before else 'is missing' if name in before else 'is new'}"
    return None
