"""The whole configuration of a run, and its loading from YAML with key=value overrides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    Field,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import ErrorDetails, InitErrorDetails

from mmscale.config.base import Config, LanguageCodes, RecipeName, TrackerName, deep_merge
from mmscale.config.connector import ConnectorName
from mmscale.config.documents import Document, find_config, key_paths, read_document, with_overrides
from mmscale.config.evaluation import EvaluationConfig, ProxyConfig, named_tasks
from mmscale.config.execution import ExecutionConfig
from mmscale.config.mistakes import mistakes
from mmscale.config.model import DEFAULT_CONNECTOR, EncoderConfig, LanguageModelConfig
from mmscale.config.parallel import ParallelConfig
from mmscale.config.references import wrong_references
from mmscale.config.training import StageConfig
from mmscale.config.variants import VariantConfig, with_recipes
from mmscale.errors import UserError
from mmscale.languages import MGSM_LANGUAGES

_TASKS = ("evaluation", "tasks")


def _again(one: ErrorDetails) -> InitErrorDetails:
    """A complaint as pydantic takes it back."""
    return InitErrorDetails(type=one["type"], loc=one["loc"], input=one["input"], ctx=one.get("ctx", {}))


class RunConfig(Config):
    """Everything `mmscale run` does; written back, resolved, as run.yaml in the run directory."""

    name: str
    """What the run is called in reports."""
    output_dir: str = ""
    """Run directory; empty means runs/NAME."""
    seed: int = Field(default=1234, ge=0, lt=2**32)
    """Decides the order of the examples and the initial weights of what is new."""
    languages: LanguageCodes = MGSM_LANGUAGES
    """ISO codes of the languages that are trained and asked, where a data set names none of its own."""
    language_model: LanguageModelConfig
    """The LLM that every method begins with."""
    encoder: EncoderConfig | None = None
    """The multilingual encoder of methods that need one."""
    connector: ConnectorName = DEFAULT_CONNECTOR
    """What joins the encoder to the language model; a mapping of `kind` and settings where it has any."""
    encoder_cache: Annotated[str, WithJsonSchema({"type": ["string", "boolean"]})] = "auto"
    """States of the frozen encoder on disk: `auto` keeps them in the run directory while a stage goes over its data twice
    or more; `off`; or a folder that keeps them for other runs."""
    methods: tuple[RecipeName, ...] = ()
    """Which recipes to run, in this order: methods, and variants by their names."""
    recipes: dict[str, dict[str, StageConfig]] = {}
    """Name of a method or variant -> stage name -> stage."""
    variants: dict[str, VariantConfig] = {}
    """Name -> stages by choice: what their recipes do not write is that of the methods whose stages they are."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """What the models are asked, and how answers are scored."""
    execution: ExecutionConfig = ExecutionConfig()
    """How programs that a model answers with are run, by rule `program`."""
    proxy: ProxyConfig | None = None
    """Proxy-tuning of a larger base by one of the tuned models."""
    parallel: ParallelConfig = ParallelConfig()
    """How the run is spread over ranks."""
    trackers: tuple[TrackerName, ...] | None = None
    """What is told of each logged step beside metrics.jsonl, which is always written; null is TensorBoard where it is
    installed."""
    threads: int | None = None
    """CPU threads of torch; null leaves torch's choice."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, on a GPU slower ones; an operation without one is refused."""

    @model_validator(mode="wrap")
    @classmethod
    def _all_mistakes(cls, values: Any, handler: ModelWrapValidatorHandler[RunConfig]) -> RunConfig:
        """Mistakes of single values and of what they say of each other, all at once."""
        values = with_recipes(values)
        wrong = wrong_references(values)
        try:
            run = handler(values)
        except ValidationError as error:
            wrong = [_again(one) for one in error.errors()] + wrong
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return run

    @field_validator("encoder_cache", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value

    @property
    def directory(self) -> Path:
        return Path(self.output_dir or f"runs/{self.name}")


def load_run(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked RunConfig from a YAML file and overrides; UserError tells every mistake with file, line and key."""
    file = find_config(name)
    run = parse_document(with_overrides(_by_task(read_document(file)), overrides))
    if not any(override.startswith(("output_dir=", "name=")) for override in overrides):
        _require_own_directory(file, run)
    return run


def _require_own_directory(file: Path, run: RunConfig) -> None:
    """UserError where the run.yaml of a run directory leads to another one: it was moved, or began in another folder."""
    own, named = file.parent.resolve(), run.directory.resolve()
    if file.name == "run.yaml" and (own / "environment.json").is_file() and named != own:
        raise UserError(
            f"{file} is of the run in {own}, but from here its output_dir {str(run.directory)!r} is {named}: go on there with "
            f"output_dir={own}, or begin another run with an output_dir of its own"
        )


def _by_task(document: Document) -> Document:
    """The document with its tasks as a mapping, so that an override reaches one by name."""
    section = document.values.get("evaluation")
    if not isinstance(section, dict) or not isinstance(section.get("tasks"), list):
        return document
    try:
        tasks = named_tasks(section["tasks"])
    except UserError:  # told with all else that is wrong
        return document
    lines = {
        i: line for path, line in document.origins.items() if path[:2] == _TASKS and len(path) == 3 for i in path[2:]
    }
    origins = {path: line for path, line in document.origins.items() if path[:2] != _TASKS or len(path) == 2}
    for i, (name, values) in enumerate(tasks.items()):
        paths = ((*_TASKS, name, *below) for below in ((), *key_paths(values)))
        origins |= dict.fromkeys(paths, lines.get(i, document.where(_TASKS)))
    return replace(document, values=deep_merge(document.values, {"evaluation": {"tasks": tasks}}), origins=origins)


def parse_run(values: dict[str, Any], origin: str) -> RunConfig:
    """A checked RunConfig of values that stand in no file."""
    return parse_document(Document(values, name=origin))


def parse_document(document: Document) -> RunConfig:
    """A checked RunConfig; UserError tells every mistake."""
    try:
        return RunConfig.model_validate(document.values)
    except ValidationError as error:
        raise mistakes(RunConfig, error, document) from error


def dump_run(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_run` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
