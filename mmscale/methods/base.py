"""What a method is: its stages in order, what each trains, and how a problem is put to the result."""

from __future__ import annotations

from dataclasses import dataclass

from mmscale.training.components import components


@dataclass(frozen=True)
class StageSpec:
    """One stage; it starts from the stage before it."""

    name: str
    prompt: str
    """Published template; a stage's `prompt` key overrides it."""
    trains: tuple[str, ...]
    """Names of the components that it trains (mmscale.training.components)."""


@dataclass(frozen=True)
class Method:
    """One paper."""

    name: str
    title: str
    paper: str
    stages: tuple[StageSpec, ...]

    @property
    def needs_encoder(self) -> bool:
        return any(one.needs_encoder for stage in self.stages for one in components(stage.trains))
