"""A small MindMerger mapping stage, started through launch/train.py, and what it leaves behind."""

from __future__ import annotations

from pathlib import Path

import torch

from mmscale.training import checkpoint
from mmscale.training.fragments import SavedState
from mmscale.training.metrics import read_metrics

STEPS = 60
STAGE = "recipes.mindmerger.mapping"


def command(folder: Path, *more: str) -> list[str]:
    settings = {
        "output_dir": folder,
        "languages": "[sw]",
        "threads": 1,
        f"{STAGE}.steps": STEPS,
        f"{STAGE}.log_every_steps": 1,
        f"{STAGE}.save_every_steps": 10,
        f"{STAGE}.packing.global_batch_size": 6,
        f"{STAGE}.optimizer.learning_rate": 3e-4,  # ranks then agree to 6e-7 over all steps: nothing magnifies rounding
        f"{STAGE}.data.0.limit_per_language": 100,
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    return ["launch/train.py", "configs/quickstart.yaml", "mindmerger.mapping", *overrides, *more]


def stage(folder: Path) -> Path:
    return folder / "stages" / "mindmerger.mapping"


def reached(folder: Path, step: int) -> bool:
    return max((row["step"] for row in read_metrics(stage(folder) / "metrics.jsonl")), default=0) >= step


def final(folder: Path) -> dict[str, torch.Tensor]:
    saved = SavedState(checkpoint.step_directory(stage(folder) / "checkpoints", STEPS))
    return {name: saved.parameter(name) for name in saved.shapes}


def losses(folder: Path) -> list[tuple[float, float]]:
    return [(r["step"], r["loss"]) for r in read_metrics(stage(folder) / "metrics.jsonl") if "loss" in r]
