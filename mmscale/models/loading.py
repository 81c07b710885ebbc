"""Finding checkpoints: local folders, hub ids, embedded tinyworld models; safetensors first, nothing executed."""

from __future__ import annotations

import pickle
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.errors import UserError

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")}
Loaded = TypeVar("Loaded")


def resolve_path(path: str) -> str:
    """A path or hub id that transformers understands; `tinyworld:NAME` is an embedded model."""
    if path.startswith("tinyworld:"):
        folder = Path(str(resources.files("mmscale.tinyworld"))) / "artifacts" / path.removeprefix("tinyworld:")
        if not folder.is_dir():
            have = sorted(p.name for p in folder.parent.glob("*")) if folder.parent.is_dir() else []
            raise UserError(
                f"there is no embedded model '{path}': have {', '.join(have) or 'none; run mmscale tinyworld'}"
            )
        return str(folder)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    expanded = str(Path(path).expanduser())
    if looks_local and not Path(expanded).is_dir():
        raise UserError(f"model folder not found: {path}; check the path")
    return expanded if Path(expanded).is_dir() else path


def loading_arguments(config: LanguageModelConfig | EncoderConfig) -> dict[str, Any]:
    return {"revision": config.revision, "trust_remote_code": config.trust_remote_code}


def load_pretrained(factory: Any, config: LanguageModelConfig | EncoderConfig, what: str, **arguments: Any) -> Any:
    """`factory.from_pretrained` with one sentence instead of a traceback.

    transformers loads other formats than safetensors with weights_only=True.
    """
    path = resolve_path(config.path)
    try:
        return factory.from_pretrained(path, **loading_arguments(config), **arguments)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"cannot load the {what} from {config.path}: {reason}") from error


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
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a checkpoint of plain tensors ({reason}): convert it where you trust it"
        ) from error
