"""Training checkpoints: safetensors and JSON only, written whole by all ranks, hashed, believed only when they verify."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.progress import detail, say
from mmscale.storage.files import (
    make_temporary,
    publish_directory,
    sha256,
    sync_tree,
    temporary_path,
    write_json,
)
from mmscale.storage.tensor_writing import save_tensors
from mmscale.training import manifest
from mmscale.training.engines.base import Engine
from mmscale.training.fragments import SavedState, write_fragments
from mmscale.training.manifest import MANIFEST, STATE, random_file, rank_file, step_directory, steps


@dataclass(frozen=True)
class TrainingState:
    """Where training stands after `step` optimizer steps."""

    step: int
    fingerprint: str
    """Hash of what was being trained on what; another run's checkpoint is refused."""
    best_step: int | None = None
    best_value: float | None = None
    """The best value of what `best_by` names, turned so that less is better."""
    seconds: float = 0.0


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def save(folder: Path, engine: Engine, state: TrainingState, context: ParallelContext, keep: int = 2) -> Path:
    """Write the checkpoint of a step; older ones but the best are pruned to `keep`.

    Each rank writes and hashes its own files in a temporary folder that all share; the first one adds the manifest
    and renames. Raises UserError on every rank when one could not write.
    """
    path = step_directory(folder, state.step)
    target = temporary_path(path)
    context.on_first(lambda: make_temporary(path))
    hashes: dict[str, str] = {}
    problem = None
    try:
        names = [rank_file(context.rank), random_file(context.rank)]
        write_fragments(target / names[0], engine)
        save_tensors(_random_state(), target / names[1])
        if context.is_first:
            names.append(STATE)
            write_json(target / STATE, {**asdict(state), "ranks": context.size})
        sync_tree(target, names)
        hashes = {name: sha256(target / name) for name in names}
    except OSError as error:
        problem = f"cannot write {path}: {error.strerror or error}; free space, then run again"
    except UserError as error:
        problem = str(error)
    try:
        context.agree(problem)
    except UserError:
        if context.is_first:
            shutil.rmtree(target, ignore_errors=True)
        raise
    gathered = context.gather(hashes)

    def publish() -> None:
        write_json(target / MANIFEST, {name: value for part in gathered for name, value in part.items()})
        publish_directory(target, path)
        _prune(folder, keep, state.best_step)

    context.on_first(publish)
    detail(f"{path}: saved")
    return path


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    for step in steps(folder)[:-keep]:
        if step != best_step:
            shutil.rmtree(step_directory(folder, step))


def fault(path: Path, context: ParallelContext) -> str | None:
    """What is wrong with a checkpoint directory, or None when every file matches its manifest; ranks share the hashing."""
    try:
        expected: dict[str, str] = context.from_first(lambda: manifest.read(path))
    except UserError as error:
        return str(error)
    mine = [_file_fault(path / name, expected[name]) for name in sorted(expected)[context.rank :: context.size]]
    problems = [problem for part in context.gather(mine) for problem in part if problem]
    if problems:
        return str(problems[0])
    ranks = json.loads((path / STATE).read_text(encoding="utf-8"))["ranks"]
    files = sum(name.startswith("state-") for name in expected)
    return None if ranks == files else f"it was saved by {ranks} ranks, and {MANIFEST} names the files of {files}"


def _file_fault(file: Path, expected: str) -> str | None:
    if not file.is_file():
        return f"{file.name} is missing"
    return None if sha256(file) == expected else f"{file.name} is damaged (its hash differs from the manifest)"


def latest(folder: Path, context: ParallelContext) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are named and passed over."""
    for step in context.from_first(lambda: sorted(steps(folder), reverse=True)):
        path = step_directory(folder, step)
        problem = fault(path, context)
        if problem is None:
            return path
        say(f"checkpoint {path}: {problem}; going back to the one before")
    return None


class OtherSettings(UserError):
    """A checkpoint, by its path, that was made by another configuration of its stage."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was made by another configuration of this stage: choose another output_dir, or remove {path.parent}"
        )
        self.path = path


def load(path: Path, engine: Engine, fingerprint: str, context: ParallelContext) -> TrainingState:
    """Bring an engine and the random generators to the state of a checkpoint, whatever layout wrote it."""
    values: dict[str, Any] = json.loads((path / STATE).read_text(encoding="utf-8"))
    ranks = values.pop("ranks")
    state = TrainingState(**values)
    if state.fingerprint != fingerprint:
        raise OtherSettings(path)
    saved = SavedState(path)
    _require_same_parameters(path, saved, engine)
    engine.restore(saved, state.step)
    if ranks == context.size:
        random = load_file(path / random_file(context.rank))
        torch.set_rng_state(random["cpu"])
        if "cuda" in random and torch.cuda.is_available():
            torch.cuda.set_rng_state(random["cuda"])
    return state


def _require_same_parameters(path: Path, saved: SavedState, engine: Engine) -> None:
    wanted = engine.shapes()
    for name in sorted(set(wanted) ^ set(saved.shapes)):
        where = "the model" if name in wanted else "the checkpoint"
        raise UserError(f"{path} is of another model: only {where} has the parameter {name}; remove it to train anew")
    for name, shape in wanted.items():
        if saved.shapes[name] != shape:
            raise UserError(
                f"{path} is of another model: {name} has shape {list(saved.shapes[name])} there and {list(shape)} here"
            )
