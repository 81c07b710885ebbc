"""One stage of training: data, hyper-parameters, how often to look and save."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmscale.config.base import Config
from mmscale.config.data import DataConfig, PackingConfig


class OptimizerConfig(Config):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=2e-5, gt=0)
    embedding_learning_rate: float | None = Field(default=None, gt=0)
    """Rate of embedding tables, where it differs: words new to a model need larger steps than what it can already do."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_gradient_norm: float = Field(default=1.0, gt=0)
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly from 0."""


class StageConfig(Config):
    """One stage of a method."""

    data: tuple[DataConfig, ...] = ()
    dev_data: tuple[DataConfig, ...] = ()
    dev_examples: int = Field(default=0, ge=0)
    """Held out from `data` when `dev_data` is empty."""
    prompt: str | None = None
    """Name of a template in mmscale/data/prompts.py; None takes the method's published one."""
    initial_mapping: str | None = None
    """File or folder of a mapping, ours or the authors', that a stage that trains one begins with; None takes the stage
    before, or a new one."""
    packing: PackingConfig = PackingConfig(global_batch_size=128)
    optimizer: OptimizerConfig = OptimizerConfig()
    epochs: float | None = Field(default=None, gt=0, le=10_000)
    steps: int | None = Field(default=None, ge=1)
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast over float32 master weights; frozen models are held as their own dtype."""
    gradient_checkpointing: bool = False
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    save_every_steps: int | None = Field(default=None, ge=1)
    log_every_steps: int = Field(default=10, ge=1)
    evaluate_task: str | None = None
    """Name of a task of `evaluation.tasks` that is also solved at every evaluation."""
    evaluate_task_rows: int = Field(default=20, ge=1)
    """Rows of each language of it."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint the stage hands on."""
    best_by: Literal["dev_loss", "accuracy"] = "dev_loss"
    """What makes a checkpoint the best: least dev loss, or highest accuracy on `evaluate_task`."""

    @model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if (self.keep == "best" or self.evaluate_task) and not self.evaluate_every_steps:
            raise ValueError("keep=best and evaluate_task need evaluate_every_steps")
        if self.keep == "best" and self.best_by == "dev_loss" and not (self.dev_data or self.dev_examples):
            raise ValueError("keep=best by dev_loss needs dev_data or dev_examples")
        if self.keep == "best" and self.best_by == "accuracy" and not self.evaluate_task:
            raise ValueError("keep=best by accuracy needs evaluate_task")
        return self
