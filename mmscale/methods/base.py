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
    prompt: str | None = None
    """Template by which its result is asked; None is that of the last stage. A method of no stages asks the run's own language
    model, and has one."""
    connector: str | None = None
    """Name of what joins encoder and language model; None takes the run's."""

    @property
    def needs_encoder(self) -> bool:
        return self.reads_encoder(self.stages[-1]) if self.stages else False

    def reads_encoder(self, spec: StageSpec) -> bool:
        """Whether an encoder stands in front of the language model in a stage: from the first on that trains what needs it."""
        so_far = self.stages[: self.stages.index(spec) + 1]
        return any(one.needs_encoder for stage in so_far for one in components(stage.trains))
