"""One stage of training: data, hyper-parameters, how often to look and save."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmscale.config.base import Config
from mmscale.config.data import PackingConfig, TrainingDataConfig
from mmscale.config.prompt import PromptName, is_written, written

ComponentName = Literal["language_model", "connector", "encoder", "encoder_embeddings"]


class OptimizerConfig(Config):
    """AdamW and its schedule."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Highest rate of the schedule."""
    embedding_learning_rate: float | None = Field(default=None, gt=0)
    """Rate of the embedding tables, where it differs: words new to a model need larger steps than what it can already do."""
    encoder_learning_rate: float | None = Field(default=None, gt=0)
    """Rate of a trained encoder, its embedding table included, where it differs: it knows its languages already."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running means of gradient and squared gradient."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the squared mean."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled weight decay."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm over all parameters."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """How the rate falls after the warm-up."""
    warmup_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps in which the learning rate rises linearly from 0."""


class StageConfig(Config):
    """One stage of a method."""

    data: tuple[TrainingDataConfig, ...] = ()
    """What is trained on."""
    mix_by: Literal["examples", "tokens"] = "examples"
    """What the `share` of a data set counts."""
    dev_data: tuple[TrainingDataConfig, ...] = ()
    """What the dev loss is measured on."""
    dev_examples: int = Field(default=0, ge=0)
    """Examples held out from `data` when `dev_data` is empty."""
    prompt: PromptName | None = None
    """Name of a template (`mmscale list prompts`); null takes the method's published one."""
    trains: tuple[ComponentName, ...] | None = Field(default=None, min_length=1)
    """What is trained; null takes what the method trains. `encoder_embeddings` is the encoder's embedding table alone."""
    start: str | None = None
    """Model folder (also one that a stage handed on) or hub id that the stage begins with; null takes what the stage before
    made, and the run's models for the first."""
    initial_mapping: str | None = None
    """File or folder of a mapping, ours or the authors', that a stage that trains one begins with; null takes the stage
    before, or a new one."""
    packing: PackingConfig = PackingConfig(global_batch_size=128)
    """How examples become optimizer steps."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """AdamW and its schedule."""
    epochs: float | None = Field(default=None, gt=0, le=10_000)
    """How often the data is gone over; or `steps`."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; or `epochs`."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """`bfloat16`: autocast over float32 master weights; frozen models are held as their own dtype."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again: less memory, a third more time."""
    evaluate_every_steps: int | None = Field(default=None, ge=1)
    """Steps between evaluations; null evaluates at the end alone."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; null saves at the end, and when it is stopped."""
    log_every_steps: int = Field(default=10, ge=1)
    """Steps between rows of metrics.jsonl and lines of the log."""
    evaluate_task: str | None = None
    """Name of a task of `evaluation.tasks` that is also solved at every evaluation."""
    evaluate_task_rows: int = Field(default=20, ge=1)
    """Rows per language of `evaluate_task`."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint the stage hands on."""
    best_by: Literal["dev_loss", "accuracy"] = "dev_loss"
    """What makes a checkpoint the best: least dev loss, or highest accuracy on `evaluate_task`."""

    @model_validator(mode="after")
    def _prompt_of_its_own(self) -> StageConfig:
        for prompt in (self.prompt, *(data.prompt for data in (*self.data, *self.dev_data))):
            if prompt is None or not is_written(prompt):
                continue
            own = written(prompt)
            if own.exemplars is not None or own.chat:
                raise ValueError(
                    "prompt: exemplars and chat formats are for asking: train on a named or written prompt"
                )
        return self

    @model_validator(mode="after")
    def _each_component_once(self) -> StageConfig:
        trains = self.trains or ()
        if len(set(trains)) < len(trains):
            raise ValueError("trains: name each component once")
        if {"encoder", "encoder_embeddings"} <= set(trains):
            raise ValueError("trains: encoder includes encoder_embeddings: name one of the two")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> StageConfig:
        given = [data.share is not None for data in self.data]
        if any(given) and not all(given):
            raise ValueError("give share to every data set of the stage, or to none")
        if any(data.share is not None for data in self.dev_data):
            raise ValueError("share is for what is trained on: take it out of dev_data")
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if (self.keep == "best" or self.evaluate_task) and not self.evaluate_every_steps:
            raise ValueError("keep=best and evaluate_task need evaluate_every_steps")
        if self.keep == "best" and self.best_by == "dev_loss" and not (self.dev_data or self.dev_examples):
            raise ValueError("keep=best by dev_loss needs dev_data or dev_examples")
        if self.keep == "best" and self.best_by == "accuracy" and not self.evaluate_task:
            raise ValueError("keep=best by accuracy needs evaluate_task")
        return self
