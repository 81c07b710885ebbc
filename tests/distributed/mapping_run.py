"""A small stage, MindMerger's mapping unless another is named, started through launch/train.py, and what it leaves."""

from __future__ import annotations

from pathlib import Path

import torch

from mmscale.training import checkpoint
from mmscale.training.fragments import SavedState
from mmscale.training.metrics import read_metrics

STEPS = 60
MAPPING = "mindmerger.mapping"


def command(folder: Path, *more: str, target: str = MAPPING) -> list[str]:
    stage = f"recipes.{target}"
    settings = {
        "output_dir": folder,
        "languages": "[sw]",
        "threads": 1,
        f"{stage}.steps": STEPS,
        f"{stage}.log_every_steps": 1,
        f"{stage}.save_every_steps": 10,
        f"{stage}.packing.global_batch_size": 6,
        f"{stage}.optimizer.learning_rate": 3e-4,  # ranks then agree to 6e-7 over all steps: nothing magnifies rounding
        f"{stage}.data.0.limit_per_language": 100,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return ["launch/train.py", "configs/quickstart.yaml", target, *overrides, *more]


def stage(folder: Path, target: str = MAPPING) -> Path:
    return folder / "stages" / target


def reached(folder: Path, step: int, target: str = MAPPING) -> bool:
    return max((row["step"] for row in read_metrics(stage(folder, target) / "metrics.jsonl")), default=0) >= step


def final(folder: Path) -> dict[str, torch.Tensor]:
    saved = SavedState(checkpoint.step_directory(stage(folder) / "checkpoints", STEPS))
    return {name: saved.parameter(name) for name in saved.shapes}


def losses(folder: Path, target: str = MAPPING) -> list[tuple[float, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(stage(folder, target) / "metrics.jsonl") if "loss" in r]
