"""Which format a source is in, and its conversion, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save

from mmscale.conversion import langbridge, universal, whole
from mmscale.conversion.hugging_face import to_safetensors
from mmscale.errors import UserError
from mmscale.models.connectors.mlp import CONNECTOR, write_authors_format
from mmscale.storage.files import atomic_write, write_directory


def is_model(source: Path) -> bool:
    """Whether a source is a model, not a mapping alone."""
    return source.is_dir() and ((source / "config.json").is_file() or universal.find(source) is not None)


def convert_mapping(source: Path, target: Path) -> str:
    """A mapping file of ours (*.safetensors) or the authors' (*.bin); says what was written."""
    mapping = CONNECTOR.read(source)
    if target.suffix == ".bin":
        write_authors_format(mapping, target)
    elif target.suffix == ".safetensors":
        with atomic_write(target, "wb") as handle:
            handle.write(save({key: value.detach().contiguous() for key, value in mapping.state_dict().items()}))
    else:
        raise UserError(f"{target}: the suffix decides the format: .safetensors or .bin")
    size = sum(p.numel() for p in mapping.parameters())
    return f"{mapping.encoder_width} -> {2 * mapping.encoder_width} -> {mapping.llm_width}, {size:,} parameters"


def convert_folder(
    source: Path, target: Path, base: Path | None, encoder: Path | None, dtype: torch.dtype | None
) -> str:
    """A model folder at `target`, which may not exist yet; says what was written."""
    if target.exists():
        raise UserError(f"{target} exists already: name a new folder, or remove it")
    if target.suffix in (".bin", ".safetensors"):
        raise UserError(f"{source} is a whole model: name a folder to write, not {target.name}")
    said: list[str] = []

    def fill(folder: Path) -> None:
        zero = universal.find(source)
        if zero is not None:
            if base is None:
                raise UserError(
                    f"{source} has no configuration: name the folder of the model it was made from with --base"
                )
            said.append(universal.to_hugging_face(zero, base, folder, dtype))
        elif langbridge.is_langbridge(source):
            said.append(langbridge.split(source, base, encoder, folder, dtype))
        elif base is not None or encoder is not None:
            raise UserError(f"{source} is a model with its configuration and tokenizer: leave --base and --encoder out")
        else:
            said.append(to_safetensors(source, folder, dtype))

    write_directory(target, fill)
    return said[0]


def copy_whole(source: Path, target: Path, dtype: torch.dtype | None) -> str:
    """A model of ours with everything that it consists of; says what was written."""
    if target.exists():
        raise UserError(f"{target} exists already: name a new folder, or remove it")
    said: list[str] = []
    write_directory(target, lambda folder: said.append(whole.copy(source, folder, dtype)))
    return said[0]


def convert_translator(source: str, target: Path, dtype: str | None) -> str:
    """A translator, by folder or hub id, for CTranslate2; says what was written."""
    if target.exists():
        raise UserError(f"{target} exists already: name a new folder, or remove it")
    try:
        from mmscale.conversion.ctranslate2 import to_ctranslate2
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'mmscale[corpus]'") from error
    said: list[str] = []
    write_directory(target, lambda folder: said.append(to_ctranslate2(source, folder, dtype)))
    return said[0]
