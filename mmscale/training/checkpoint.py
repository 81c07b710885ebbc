"""Training checkpoints: safetensors and JSON only, written whole, hashed, and believed only when they verify."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmscale.errors import UserError
from mmscale.files import sha256, write_directory, write_json
from mmscale.progress import say
from mmscale.training.engine import Engine

_FILES = ("parameters.safetensors", "optimizer.safetensors", "random.safetensors", "state.json")


@dataclass(frozen=True)
class TrainingState:
    """Where training stands after `step` optimizer steps."""

    step: int
    fingerprint: str
    """Hash of what was being trained on what; another run's checkpoint is refused."""
    best_step: int | None = None
    best_value: float | None = None
    """Of what `best_by` names, turned so that less is better."""
    seconds: float = 0.0


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies that share no memory (tied weights appear once in named_parameters already)."""
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def step_directory(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}"


def save(folder: Path, engine: Engine, state: TrainingState, keep: int = 2) -> Path:
    """Write the checkpoint of a step; older ones but the best are pruned to `keep`."""

    def fill(target: Path) -> None:
        save_file(_plain(engine.parameters()), target / _FILES[0])
        save_file(_plain(engine.optimizer_tensors()), target / _FILES[1])
        save_file(_random_state(), target / _FILES[2])
        write_json(target / _FILES[3], asdict(state))
        write_json(target / "manifest.json", {name: sha256(target / name) for name in _FILES})

    path = step_directory(folder, state.step)
    folder.mkdir(parents=True, exist_ok=True)
    write_directory(path, fill)
    _prune(folder, keep, state.best_step)
    return path


def _steps(folder: Path) -> list[int]:
    return sorted(int(p.name.removeprefix("step-")) for p in folder.glob("step-*") if p.is_dir())


def _prune(folder: Path, keep: int, best_step: int | None) -> None:
    for step in _steps(folder)[:-keep]:
        if step != best_step:
            shutil.rmtree(step_directory(folder, step))


def fault(path: Path) -> str | None:
    """What is wrong with a checkpoint directory, or None when every file matches its manifest."""
    manifest = path / "manifest.json"
    if not manifest.is_file():
        return "manifest.json is missing"
    try:
        expected = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError:
        return "manifest.json is damaged"
    for name in _FILES:
        if not (path / name).is_file():
            return f"{name} is missing"
        if sha256(path / name) != expected.get(name):
            return f"{name} is damaged (its hash differs from the manifest)"
    return None


def latest(folder: Path) -> Path | None:
    """The newest checkpoint that verifies; damaged ones are named and passed over."""
    for step in reversed(_steps(folder)):
        path = step_directory(folder, step)
        problem = fault(path)
        if problem is None:
            return path
        say(f"checkpoint {path}: {problem}; going back to the one before")
    return None


def load(path: Path, engine: Engine, fingerprint: str) -> TrainingState:
    """Bring an engine and the random generators to the state of a checkpoint."""
    state = TrainingState(**json.loads((path / _FILES[3]).read_text(encoding="utf-8")))
    if state.fingerprint != fingerprint:
        raise UserError(
            f"{path} was made by another configuration of this stage: choose another output_dir, or remove {path.parent}"
        )
    engine.load(load_file(path / _FILES[0]), load_file(path / _FILES[1]))
    random = load_file(path / _FILES[2])
    torch.set_rng_state(random["cpu"])
    if "cuda" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random["cuda"])
    return state


def load_parameters(path: Path) -> dict[str, Tensor]:
    """The trained tensors of a checkpoint alone."""
    return load_file(path / _FILES[0])
