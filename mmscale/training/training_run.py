"""One training, of a stage or of the tiny world's models: what decides its result, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mmscale.config.training import StageConfig


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """One training. The same run in the same folder goes on where it stands."""

    title: str
    """For people."""
    folder: Path
    """Where its checkpoints and curves are."""
    config: StageConfig
    seed: int
    """Decides the order of its examples."""
    fingerprint: str
    """Digest of all that decides its result; checkpoints of another one are refused."""
    trackers: tuple[str, ...] | None = None
    """What is told of each logged step beside metrics.jsonl; None for TensorBoard where it is installed."""
