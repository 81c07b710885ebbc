"""Which files make a checkpoint: a manifest of their hashes, and nothing that lies beside them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mmscale.errors import UserError

MANIFEST, STATE = "manifest.json", "state.json"
_STEP = re.compile(r"step-(\d{8,})")
_HASH = re.compile(r"[0-9a-f]{64}")


def rank_file(rank: int) -> str:
    return f"state-{rank:05d}.safetensors"


def random_file(rank: int) -> str:
    return f"random-{rank:05d}.safetensors"


def step_directory(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def steps(folder: Path) -> list[int]:
    """Steps whose directories have exactly the name that they are saved under."""
    named = [(_STEP.fullmatch(path.name), path) for path in folder.glob("step-*") if path.is_dir()]
    return sorted(int(m[1]) for m, path in named if m and path == step_directory(folder, int(m[1])))


def read(folder: Path) -> dict[str, str]:
    """file -> SHA-256 of a whole checkpoint; UserError saying what is wrong where it is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{MANIFEST} is missing")
    try:
        hashes = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{MANIFEST} is damaged") from error
    if not isinstance(hashes, dict) or not all(isinstance(v, str) and _HASH.fullmatch(v) for v in hashes.values()):
        raise UserError(f"{MANIFEST} is damaged")
    ranks = range(sum(name.startswith("state-") for name in hashes))
    whole = {STATE, *map(rank_file, ranks), *map(random_file, ranks)}
    for name in sorted(set(hashes) ^ whole):
        raise UserError(f"{MANIFEST} {'names the unknown' if name in hashes else 'lacks the'} file {name}")
    if not ranks:
        raise UserError(f"{MANIFEST} names no rank's file")
    return hashes


def state_files(folder: Path) -> list[Path]:
    """The training state of every rank; UserError as of `read`."""
    return [folder / name for name in sorted(read(folder)) if name.startswith("state-")]
