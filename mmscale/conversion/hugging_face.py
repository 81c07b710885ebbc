"""A Hugging Face folder, whatever its weight files, as one with safetensors shards."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor, dtype

from mmscale.errors import UserError
from mmscale.models.export import SHARD_BYTES, ShardWriter
from mmscale.models.seal import SEAL_FILE
from mmscale.models.tensor_files import TensorFiles, read_object
from mmscale.storage.files import write_json

_BESIDES_WEIGHTS = (".json", ".model", ".txt", ".jinja", ".tiktoken")
"""Configuration, tokenizer and chat template; never code."""


def copy_besides_weights(source: Path, target: Path) -> None:
    """Configuration and tokenizer files, without the seal of a stage that wrote other weights; UserError when there is no
    configuration.
    """
    if not (source / "config.json").is_file():
        raise UserError(f"{source} has no config.json: name the folder of a Hugging Face model")
    for file in sorted(source.iterdir()):
        if file.name == SEAL_FILE or file.name.endswith(".index.json"):
            continue
        if file.is_file() and file.suffix in _BESIDES_WEIGHTS:
            shutil.copyfile(file, target / file.name)


def note_dtype(target: Path, writer: ShardWriter) -> None:
    """Let config.json name the dtype that was written: transformers loads weights in the one it names."""
    if len(writer.dtypes) != 1:
        return
    values = read_object(target / "config.json")
    values.pop("torch_dtype", None)  # the key's older name
    write_json(target / "config.json", {**values, "dtype": str(next(iter(writer.dtypes))).removeprefix("torch.")})


def converted(value: Tensor, to: dtype | None) -> Tensor:
    """A copy in the wanted dtype; whole numbers keep theirs."""
    return value.to(to, copy=True) if to is not None and value.is_floating_point() else value.clone()


def to_safetensors(source: Path, target: Path, to: dtype | None, shard_bytes: int = SHARD_BYTES) -> str:
    """Write `target`; says what was written."""
    files, writer = TensorFiles(source), ShardWriter(target, shard_bytes)
    copy_besides_weights(source, target)
    names = list(files)
    for name in names:
        writer.add(name, converted(files.read(name), to))
    writer.close()
    note_dtype(target, writer)
    return f"{len(names):,} tensors"
