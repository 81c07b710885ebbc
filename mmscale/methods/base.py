"""What a method is: its stages in order, what each trains, and how a problem is put to the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StageSpec:
    """One stage; it starts from the stage before it."""

    name: str
    prompt: str
    """Published template; a stage's `prompt` key overrides it."""
    trains: Literal["language_model", "mapping"]


@dataclass(frozen=True)
class Method:
    """One paper."""

    name: str
    title: str
    paper: str
    stages: tuple[StageSpec, ...]

    @property
    def needs_encoder(self) -> bool:
        return any(stage.trains == "mapping" for stage in self.stages)
