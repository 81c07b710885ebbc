"""Which tasks are scored by which rule, how text is generated, and proxy-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmscale import registry
from mmscale.config.base import AnswererName, Config, LanguageCodes, RuleName, Seed, TaskName, deep_merge
from mmscale.config.data import DataConfig
from mmscale.config.model import LanguageModelConfig
from mmscale.config.prompt import PromptName
from mmscale.errors import UserError
from mmscale.storage.reading import read_yaml_with_lines

LEAST_TEMPERATURE = 1e-4
MOST_ALPHA = 1000
"""Beyond, sums of logits are of other numbers than the models gave."""
MOST_DRAFT_TOKENS = 256
NORMALIZATIONS = ("none", "characters", "bytes", "tokens")
"""What a log-likelihood may be divided by, the length of its text."""


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


def read_task(path: Path) -> TaskConfig:
    """The task that a YAML file describes."""
    values, _ = read_yaml_with_lines(path)
    return TaskConfig(**values)


def named_tasks(given: Any) -> Any:
    """`evaluation.tasks` as a mapping: a list holds names of benchmarks, {NAME: what is laid over it}, or settings with `task: NAME`."""
    if not isinstance(given, (list, tuple)):
        return {name: _begun(name, task) for name, task in given.items()} if isinstance(given, dict) else given
    tasks: dict[str, Any] = {}
    for one in given:
        if isinstance(one, dict) and len(one) == 1 and "task" not in one:
            ((name, settings),) = one.items()
        elif isinstance(one, dict):
            name, settings = one.get("task"), one
        else:
            name, settings = one, None
        if not isinstance(name, str) or name in tasks:
            said = f"names '{name}' twice" if name in tasks else f"holds {one!r:.60}, which names no task"
            raise UserError(f"a list of tasks {said}: give names, {{NAME: settings}} or a mapping of names of your own")
        tasks[name] = _begun(name, {} if settings is None else settings, always=True)
    return tasks


def _begun(name: Any, task: Any, always: bool = False) -> Any:
    """Settings that say of which benchmark they are: by default the one that they are called after, where they name no source."""
    if task is None:
        task = {}
    if not isinstance(task, dict) or "task" in task or not (always or name in registry.names("tasks")):
        return task
    own = task.get("data")
    return task if isinstance(own, dict) and "source" in own and not always else {"task": name, **task}


def task_values(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a named benchmark with those given laid over them."""
    task: TaskConfig = registry.get("tasks", name)
    return deep_merge(task.model_dump(mode="json", exclude_unset=True), given)


class TaskConfig(Config):
    """One benchmark."""

    task: TaskName | None = None
    """Name of a benchmark (`mmscale list tasks`) whose settings this one begins with; what is given here is laid over them."""
    data: DataConfig
    """Its questions and gold answers."""
    rule: RuleName = "default"
    """Name of the rule that takes an answer from a response (`mmscale list rules`)."""
    prompt: PromptName | None = None
    """Template of its questions (`mmscale list prompts`), or one that is written here (docs/tasks.md); null takes that of each
    model. A task of another kind of question needs its own."""
    generation: GenerationConfig = GenerationConfig()
    """How answers are decoded."""
    scoring: Literal["generation", "log_likelihood"] = "generation"
    """What is taken as the answer: what the model writes, or the option of a question that is likeliest behind it."""
    length_normalization: Literal["none", "characters", "bytes", "tokens"] = "none"
    """What an option's log-likelihood is divided by: its length in characters (lm-eval's `acc_norm`), UTF-8 bytes (`acc_bytes`)
    or tokens."""
    rows: dict[str, int] = {}
    """Split -> rows that were published of it in each language; a file that holds more or fewer is told of."""

    @model_validator(mode="after")
    def _normalizes_what_there_is(self) -> TaskConfig:
        if self.length_normalization != "none" and self.scoring != "log_likelihood":
            raise ValueError(
                f"length_normalization={self.length_normalization} divides log-likelihoods: set scoring=log_likelihood too"
            )
        return self

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


def _or_a_list(schema: dict[str, Any]) -> None:
    """Tasks as a mapping, or as a list of names and of mappings from one name to its settings."""
    mapping = {key: schema.pop(key) for key in ("type", "additionalProperties")}
    one = [{"enum": registry.names("tasks")}, {"type": "object", "minProperties": 1}]
    schema["anyOf"] = [mapping, {"type": "array", "items": {"anyOf": one}}]


class EvaluationConfig(Config):
    """What is measured after training, and with what confidence."""

    tasks: dict[str, TaskConfig] = Field(default={}, json_schema_extra=_or_a_list)
    """name -> task that every model answers; or a list of benchmarks (`mmscale list tasks`), each by name or as {NAME: settings}."""
    answerer: AnswererName = "local"
    """What answers the tasks: `local` runs the models in this process (`mmscale list answerers`)."""
    base: bool = True
    """Also score the untouched model."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Level of the intervals in scores and report."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        try:
            return named_tasks(given)
        except UserError as error:  # pydantic collects what is a ValueError
            raise ValueError(str(error)) from error

    @model_validator(mode="before")
    @classmethod
    def _without_what_nothing_read(cls, values: Any) -> Any:
        """run.yaml of version 0.1 holds `precision: float32`, which never meant anything."""
        if isinstance(values, dict) and values.get("precision") == "float32":
            return {key: value for key, value in values.items() if key != "precision"}
        return values
