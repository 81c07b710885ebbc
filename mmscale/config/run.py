"""The whole configuration of a run, and its loading from YAML with key=value overrides."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from mmscale.config.base import Config, LanguageCodes, deep_merge, validation_sentence
from mmscale.config.evaluation import EvaluationConfig, ProxyConfig
from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.config.parallel import ParallelConfig
from mmscale.config.training import StageConfig
from mmscale.errors import UserError
from mmscale.languages import MGSM_LANGUAGES
from mmscale.storage.reading import existing_file, is_file, parse_yaml, read_yaml


class RunConfig(Config):
    """Everything `mmscale run` does; written back, resolved, as run.yaml in the run directory."""

    name: str
    output_dir: str = ""
    """Run directory; empty means runs/<name>."""
    seed: int = Field(default=1234, ge=0, lt=2**32)
    languages: LanguageCodes = MGSM_LANGUAGES
    language_model: LanguageModelConfig
    encoder: EncoderConfig | None = None
    encoder_cache: str = "auto"
    """States of the frozen encoder on disk: `auto` keeps them in the run directory while a stage goes over its data twice
    or more; `off`; or a folder that keeps them for other runs."""
    methods: tuple[str, ...] = ()
    """Which recipes to run, in this order."""
    recipes: dict[str, dict[str, StageConfig]] = {}
    """method name -> stage name -> stage."""
    evaluation: EvaluationConfig = EvaluationConfig()
    proxy: ProxyConfig | None = None
    parallel: ParallelConfig = ParallelConfig()
    threads: int | None = None
    """CPU threads of torch; None leaves torch's choice."""
    deterministic: bool = False
    """Only algorithms that give the same bits every time, on a GPU slower ones; an operation without one is refused."""

    @field_validator("encoder_cache", mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        """YAML reads a bare `off` as false."""
        return {False: "off", True: "auto"}[value] if isinstance(value, bool) else value

    @property
    def directory(self) -> Path:
        return Path(self.output_dir or f"runs/{self.name}")


def find_config(name: str) -> Path:
    """A YAML file by path, or by its name inside the configurations that ship with mmscale."""
    path = Path(name).expanduser()
    if is_file(path):
        return path
    shipped = Path(str(resources.files("mmscale.configs")))
    relative = name.removeprefix("configs/")
    if is_file(shipped / relative):
        return shipped / relative
    choices = sorted(str(p.relative_to(shipped)) for p in shipped.rglob("*.yaml"))
    if path.exists():
        raise UserError(f"{name} is not a file: name a YAML file")
    near = difflib.get_close_matches(relative, choices, n=1)
    hint = f"did you mean configs/{near[0]}?" if near else f"shipped: {', '.join('configs/' + c for c in choices)}"
    raise UserError(f"configuration not found: {name}: {hint}")


def read_with_parent(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The YAML at `path` laid over the file its `extends` key names (relative to it), if any."""
    values = read_yaml(path)
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(f"{path}: extends: {parent!r:.60} is not the name of a file; correct it")
    file = existing_file(path.parent / parent, f"{path}: extends:")
    chain = (*above, path.resolve())
    if file.resolve() in chain:
        raise UserError(f"{path}: extends: {parent} leads back to {file.resolve().name} itself; take that line out")
    return deep_merge(read_with_parent(file, chain), values)


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each "a.b.c=VALUE" set, VALUE read as YAML; list elements by number."""
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"'{override}' is not key=value; for example methods=[mindmerger]")
        try:
            value = parse_yaml(text, "")
        except UserError as error:
            raise UserError(f"override {key}: '{text:.60}' is not a YAML value; quote it") from error
        values = _set(values, key.split("."), value, key)
    return values


def _set(node: Any, parts: list[str], value: Any, key: str) -> Any:
    if not parts:
        return value
    head, rest = parts[0], parts[1:]
    if isinstance(node, list):
        if not head.isdigit() or int(head) >= len(node):
            raise UserError(f"override {key}: '{head}' is not an index of a list of {len(node)}")
        return [_set(item, rest, value, key) if i == int(head) else item for i, item in enumerate(node)]
    if node is not None and not isinstance(node, dict):
        raise UserError(f"override {key}: there is no section before '{head}'")
    node = dict(node or {})
    node[head] = _set(node.get(head), rest, value, key)
    return node


def load_run(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A checked RunConfig from a YAML file and overrides; UserError names file and key."""
    path = find_config(name)
    return parse_run(apply_overrides(read_with_parent(path), overrides), str(path))


def parse_run(values: dict[str, Any], origin: str) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise validation_sentence(RunConfig, error, origin) from error
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error


def dump_run(config: RunConfig) -> str:
    """The resolved configuration as YAML that `load_run` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
