"""Which tasks are scored by which rule, how text is generated, and proxy-tuning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from mmscale import registry
from mmscale.config.base import AnswererName, Config, LanguageCodes, PromptName, RuleName, Seed, TaskName, deep_merge
from mmscale.config.data import DataConfig
from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError

LEAST_TEMPERATURE = 1e-4
MOST_ALPHA = 1000
"""Beyond, sums of logits are of other numbers than the models gave."""
MOST_DRAFT_TOKENS = 256


class GenerationConfig(Config):
    """Decoding; temperature 0 is greedy."""

    max_new_tokens: int = Field(default=512, ge=1, lt=2**31)
    """Longest answer, in tokens."""
    temperature: float = Field(default=0.0, ge=0, le=1000)
    """0 is greedy."""
    top_k: int = Field(default=0, ge=0, lt=2**31)
    """Sample from the likeliest tokens only, so many of them; 0 is off."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the likeliest tokens only, up to this share of the probability."""
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Least probability, as a share of the likeliest token's."""
    repetition_penalty: float = Field(default=1.0, ge=0.001, le=1000)
    """Makes tokens that prompt or answer hold already less likely (Keskar et al. 2019, arXiv 1909.05858, section 4.1)."""
    batch_size: int = Field(default=32, ge=1, lt=2**31)
    """Questions answered at once, per rank."""
    seed: Seed = 0
    """Decides what is sampled."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts at which an answer ends (they are cut off)."""

    @field_validator("temperature")
    @classmethod
    def _far_enough_from_zero(cls, value: float) -> float:
        if 0 < value < LEAST_TEMPERATURE:
            raise ValueError(f"a temperature is 0 (greedy) or at least {LEAST_TEMPERATURE}: below, logits overflow")
        return value


def task_values(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a named benchmark with those given laid over them."""
    found: TaskConfig = registry.get("tasks", name)
    return deep_merge(found.model_dump(mode="json", exclude_unset=True), given)


class TaskConfig(Config):
    """One benchmark."""

    task: TaskName | None = None
    """Name of a benchmark (`mmscale list tasks`) whose settings this one begins with; what is given here is laid over them."""
    data: DataConfig
    """Its questions and gold answers."""
    rule: RuleName = "default"
    """Name of the rule that takes an answer from a response (`mmscale list rules`)."""
    prompt: PromptName | None = None
    """Template of its questions (`mmscale list prompts`); null takes that of each model. A task of another kind of question
    needs its own."""
    generation: GenerationConfig = GenerationConfig()
    """How answers are decoded."""

    @model_validator(mode="before")
    @classmethod
    def _begin_with_the_named_one(cls, values: Any) -> Any:
        name = values.get("task") if isinstance(values, dict) else None
        if not isinstance(name, str) or name not in registry.names("tasks"):
            return values
        try:
            return task_values(name, values)
        except UserError as error:  # of another package, and broken; pydantic collects what is a ValueError
            raise ValueError(str(error)) from error


class ProxyConfig(Config):
    """Proxy-tuning (Liu et al. 2024, eq. 1): logits = base + alpha (expert - anti-expert)."""

    base: LanguageModelConfig
    """The larger model that is steered."""
    expert: str
    """Method of this run whose tuned model steers."""
    alpha: float = Field(default=1.0, ge=-MOST_ALPHA, le=MOST_ALPHA)
    """Strength."""
    sweep: tuple[Annotated[float, Field(ge=-MOST_ALPHA, le=MOST_ALPHA)], ...] = ()
    """More values of alpha that answer, for the report's picture."""
    sweep_limit: int | None = Field(default=None, ge=1)
    """Problems per language that these answer; null is all."""
    ceiling: bool = False
    """Also tune the larger base itself by the expert's recipe: how much of that gain does proxy-tuning reach?"""
    ceiling_learning_rate_scale: float = Field(default=1.0, gt=0)
    """The larger base is tuned with so much of the recipe's learning rates: wider models want smaller steps."""
    draft_tokens: int | None = Field(default=1, ge=1, le=MOST_DRAFT_TOKENS)
    """Tokens that a round of speculative decoding tries; 1 is plain decoding, null measures what is fastest."""
    shard_small: bool = False
    """Cut expert and anti-expert over the tensor group like the base, instead of keeping them whole on every rank."""
    tasks: tuple[str, ...] = ()
    """Names of `evaluation.tasks` that it answers; empty means all."""
    languages: LanguageCodes = ()
    """Those of the run's languages that are asked about; empty means all."""


class EvaluationConfig(Config):
    """What is measured after training, and with what confidence."""

    tasks: dict[str, TaskConfig] = {}
    """name -> task that every model answers."""
    answerer: AnswererName = "local"
    """What answers the tasks: `local` runs the models in this process (`mmscale list answerers`)."""
    base: bool = True
    """Also score the untouched model."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the intervals in scores and report."""

    @model_validator(mode="before")
    @classmethod
    def _without_what_nothing_read(cls, values: Any) -> Any:
        """run.yaml of version 0.1 holds `precision: float32`, which never meant anything."""
        if isinstance(values, dict) and values.get("precision") == "float32":
            return {key: value for key, value in values.items() if key != "precision"}
        return values
