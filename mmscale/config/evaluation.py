"""Which tasks are scored by which rule, how text is generated, and proxy-tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from mmscale.config.base import Config, LanguageCodes, Seed
from mmscale.config.data import DataConfig
from mmscale.config.model import LanguageModelConfig

LEAST_TEMPERATURE = 1e-4


class GenerationConfig(Config):
    """Decoding; temperature 0 is greedy."""

    max_new_tokens: int = Field(default=512, ge=1, lt=2**31)
    temperature: float = Field(default=0.0, ge=0, le=1000)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    """0 is off."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    """Least probability, as a share of the likeliest token's."""
    repetition_penalty: float = Field(default=1.0, gt=0, le=1000)
    """Of tokens that prompt or answer hold already (Keskar et al. 2019, arXiv 1909.05858, section 4.1)."""
    batch_size: int = Field(default=32, ge=1, lt=2**31)
    seed: Seed = 0
    stop: tuple[str, ...] = ()
    """Texts at which an answer ends (they are cut off)."""

    @field_validator("temperature")
    @classmethod
    def _far_enough_from_zero(cls, value: float) -> float:
        if 0 < value < LEAST_TEMPERATURE:
            raise ValueError(f"a temperature is 0 (greedy) or at least {LEAST_TEMPERATURE}: below, logits overflow")
        return value


class TaskConfig(Config):
    """One benchmark."""

    data: DataConfig
    rule: str = "default"
    """Answer extraction rule, by name (mmscale/evaluation/answers)."""
    prompt: str | None = None
    """Template of its questions; by default that of each model. A task of another kind of question needs its own."""
    generation: GenerationConfig = GenerationConfig()


class ProxyConfig(Config):
    """Proxy-tuning (Liu et al. 2024, eq. 1): logits = base + alpha (expert - anti-expert)."""

    base: LanguageModelConfig
    expert: str
    """Method of this run whose tuned model steers."""
    alpha: float = 1.0
    sweep: tuple[float, ...] = ()
    """More values of alpha that answer, for the report's picture."""
    sweep_limit: int | None = Field(default=None, ge=1)
    """Problems of a language that these answer; all by default."""
    ceiling: bool = False
    """Also tune the larger base itself by the expert's recipe: how much of that gain does proxy-tuning reach?"""
    ceiling_learning_rate_scale: float = Field(default=1.0, gt=0)
    """Of the recipe's learning rates, what the larger base is tuned with: wider models want smaller steps."""
    draft_tokens: int | None = Field(default=1, ge=1)
    """Tokens that a round of speculative decoding tries; 1 is plain decoding, null measures what is fastest."""
    shard_small: bool = False
    """Cut expert and anti-expert over the tensor group like the base, instead of keeping them whole on every rank."""
    tasks: tuple[str, ...] = ()
    languages: LanguageCodes = ()
    """Of the run's languages, those that are asked about; all by default."""


class EvaluationConfig(Config):
    """What is measured after training, and with what confidence."""

    tasks: dict[str, TaskConfig] = {}
    base: bool = True
    """Also score the untouched model."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    precision: Literal["float32", "bfloat16"] = "float32"
