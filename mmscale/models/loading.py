"""Finding checkpoints: local folders, hub ids, embedded tinyworld models; safetensors first, nothing executed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig
from transformers.utils import cached_file

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.errors import NotHereYet, UserError
from mmscale.models.places import resolve_path

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
_ADAPTER = "adapter_config.json"
_DESCRIPTION = "config.json"
_MOST_LAYERS, _MOST_LABELS = 4096, 1 << 20
AGAIN = "download or copy it again"
_BESIDE = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def loading_arguments(config: LanguageModelConfig | EncoderConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def load_pretrained(factory: Any, config: LanguageModelConfig | EncoderConfig, what: str, /, **arguments: Any) -> Any:
    """`factory.from_pretrained` with one sentence instead of a traceback, whatever is wrong with the files.

    transformers loads other formats than safetensors with weights_only=True.
    """
    path = resolve_path(config.path)
    try:
        return factory.from_pretrained(path, **loading_arguments(config), **arguments)
    except UserError:
        raise
    except Exception as error:  # what a damaged file makes of foreign code is of any kind
        kind = NotHereYet if _is_absent(path, error) else UserError
        raise kind(f"cannot load the {what} from {config.path}: {_reason(path, error)}") from error


def _is_absent(path: str, error: Exception) -> bool:
    return isinstance(error, OSError) and not Path(path).is_dir()


def _reason(path: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    announced = len(lines) > 1 and lines[0].endswith(":")
    said = " ".join(lines[: 1 + announced]) if lines else type(error).__name__
    if "trust_remote_code" in str(error):
        return (
            "it brings Python code of its own, which is not run: where you trust it, set trust_remote_code: true in your "
            "configuration, or give --trust-remote-code"
        )
    if "backend tokenizer" in str(error):
        return "it holds no tokenizer (tokenizer.json or tokenizer.model): copy it from where the model comes from"
    if _is_absent(path, error):
        return f"there is no such folder here, and the hub has no such model or cannot be reached ({said})"
    return said if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {said}"


def found_file(config: LanguageModelConfig | EncoderConfig, name: str) -> Path | None:
    """A file of a model folder or hub repository, fetched where it is not here yet; None where there is none."""
    path = resolve_path(config.path)
    if Path(path).is_dir():
        file = Path(path) / name
        return file if file.is_file() else None
    try:
        cached = cached_file(
            path,
            name,
            revision=config.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError) as error:  # no such repository or revision, or a name that none could have
        kind = NotHereYet if _is_absent(path, error) else UserError
        raise kind(f"cannot load {config.path}: {_reason(path, error)}") from error
    return Path(cached) if cached is not None else None


def load_model_configuration(config: LanguageModelConfig | EncoderConfig, what: str) -> Any:
    """config.json of a model, without what a file must not decide: where weights lie, and which foreign code runs.

    Raises UserError for what is no model that can be loaded as it is: an adapter, or weights quantised already.
    """
    if found_file(config, _ADAPTER) is not None:
        raise UserError(
            f"{config.path} holds an adapter ({_ADAPTER}), which is loaded by nothing here: merge it into its base model, "
            f"or remove that file"
        )
    _require_readable(config)
    _require_few_layers(config)
    configuration = load_pretrained(AutoConfig, config, what)
    method = getattr(configuration, "quantization_config", None)
    if method is not None:
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else type(method).__name__
        raise UserError(
            f"{config.path} is quantised already ({name}), which is not supported: take the model it was made from, and "
            f"language_model.quantization where it has to be small"
        )
    if getattr(configuration, "transformers_weights", None) is not None:
        raise UserError(
            f"{config.path}: config.json names its weights itself (transformers_weights): remove that key, and give them "
            f"the usual name"
        )
    configuration._attn_implementation = configuration._experts_implementation = None  # either may name code on the hub
    return configuration


def _require_readable(config: LanguageModelConfig | EncoderConfig) -> None:
    """UserError for a JSON file of a local folder that is none: transformers passes over some of them, and says of others
    neither name nor line. What comes from the hub is checked on its way."""
    folder = Path(resolve_path(config.path))
    if not folder.is_dir():
        return
    if not (folder / _DESCRIPTION).is_file():
        raise UserError(f"{config.path} holds no {_DESCRIPTION}: name the folder of a model, or copy it again")
    for file in (folder / name for name in (_DESCRIPTION, *_BESIDE)):
        if file.is_file():
            _require_object(file)


def _require_few_layers(config: LanguageModelConfig | EncoderConfig) -> None:
    """UserError where config.json counts more than any model has: transformers makes a list as long as that first."""
    file = found_file(config, _DESCRIPTION)
    for key, value in _integers(_require_object(file)) if file is not None else ():
        most = _MOST_LABELS if key == "num_labels" else _MOST_LAYERS if key.endswith(("layer", "layers")) else value
        if value > most:
            raise UserError(f"{file} counts more {key} than any model has: {AGAIN}")


def _integers(values: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number of an object and those inside it, under its key."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _integers(value)
        elif isinstance(value, int):
            yield key, value


def _require_object(file: Path) -> dict[str, Any]:
    begin = f"{file} "
    try:
        text = file.read_text(encoding="utf-8")
        if text.startswith("version https://git-lfs"):
            raise UserError(begin + "is a git-lfs pointer: fetch the file with git lfs pull")
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise UserError(f"{begin}is not valid JSON ({said}): {AGAIN}") from error
    if not isinstance(value, dict):
        raise UserError(begin + f"holds no JSON object: {AGAIN}")
    return value


def freeze(module: torch.nn.Module) -> None:
    """Evaluation mode (no dropout) for good, and no gradients."""
    module.eval()
    module.requires_grad_(False)


def load_tensors(path: Path) -> Any:
    """What a file of torch.save holds, mapped from disk; plain tensors and containers only, nothing is executed."""
    try:
        with open(path, "rb") as handle:
            zipped = handle.read(2) == b"PK"
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a damaged pickle fails in any way
        said = "holds more than tensors" if "weights_only" in str(error) else str(error)
        reason = said.splitlines()[0] if " " in said else type(error).__name__
        raise UserError(
            f"{path} is not a checkpoint of plain tensors, or damaged ({reason}): convert it where you trust it, or copy it "
            f"again"
        ) from error
