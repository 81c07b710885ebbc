"""What a stage hands on carries the SHA-256 of each of its files; whoever takes it up checks them first."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmscale.errors import UserError, told
from mmscale.parallel.context import ParallelContext
from mmscale.storage.files import sha256, write_json
from mmscale.storage.reading import read_json_object

SEAL_FILE = "fingerprint.json"
_HASH = re.compile(r"[0-9a-f]{64}")
_READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt", ".tiktoken", ".py")
"""What a loader may look for: an unknown file of another kind does no harm."""
_REMEDY = "copy the folder again, or remove it and run its stage again"


@dataclass(frozen=True)
class Seal:
    """What fingerprint.json says."""

    fingerprint: str
    """Names the configuration that the stage had."""
    files: dict[str, str]
    """Path in the folder -> SHA-256."""


def write_seal(folder: Path, fingerprint: str, files: dict[str, str]) -> None:
    write_json(folder / SEAL_FILE, {"fingerprint": fingerprint, "files": files})


def is_sealed(folder: Path) -> bool:
    return (folder / SEAL_FILE).is_file()


def read_seal(folder: Path) -> Seal:
    """UserError where the file is damaged, or names what is not in the folder."""
    path = folder / SEAL_FILE
    values = read_json_object(path, _REMEDY)
    if set(values) != {"fingerprint", "files"} or not _are_hashes(values["files"]):
        raise UserError(f"{path} is damaged, or of an older version: it names no files and their hashes: {_REMEDY}")
    return Seal(str(values["fingerprint"]), values["files"])


def _are_hashes(files: object) -> bool:
    return (
        isinstance(files, dict)
        and bool(files)
        and all(_inside(name) and isinstance(value, str) and _HASH.fullmatch(value) for name, value in files.items())
    )


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def hashes(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """SHA-256 of files, several at once: hashing one is slower than reading it."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return dict(zip(names, pool.map(lambda name: sha256(folder / name), names), strict=True))


def require_unchanged(folder: Path, context: ParallelContext) -> Seal:
    """UserError, on every rank, naming the file of a sealed folder that is missing, changed or new; ranks share the hashing."""
    held: list[Seal] = []
    context.agree(told(lambda: held.append(read_seal(folder))))
    seal = held[0]
    mine = sorted(seal.files)[context.rank :: context.size]
    context.agree(told(lambda: _require(folder, seal, mine)))
    return seal


def _require(folder: Path, seal: Seal, names: Sequence[str]) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise UserError(f"{folder / name} is missing, which its stage wrote: {_REMEDY}")
    for name, digest in hashes(folder, names).items():
        if digest != seal.files[name]:
            raise UserError(f"{folder / name} is not what its stage wrote (its hash differs): {_REMEDY}")
    known = {folder / name for name in (*seal.files, SEAL_FILE)}
    for file in sorted(file for place in {one.parent for one in known} for file in place.iterdir()):
        if file.suffix in _READ and file not in known:
            raise UserError(f"{file} is none of what its stage wrote: remove it")
