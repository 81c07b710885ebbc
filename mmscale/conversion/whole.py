"""A model of ours in one folder: its mapping, and copies of the LLM and the encoder that it only names elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import device, dtype

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.conversion.hugging_face import converted, copy_besides_weights, note_dtype
from mmscale.errors import UserError
from mmscale.models.assembly import (
    FOLDER,
    PARTS_FILE,
    Part,
    read_parts,
    require_sealed_unchanged,
    require_trained_with,
    write_parts,
)
from mmscale.models.connectors import connector
from mmscale.models.export import ShardWriter
from mmscale.models.places import resolve_path
from mmscale.models.seal import hashes, write_seal
from mmscale.models.weights import checkpoint_files
from mmscale.parallel.context import ParallelContext


def copy(source: Path, target: Path, to: dtype | None) -> str:
    """Fill `target`; says what was written. UserError where `source` is no model of ours, or a part cannot be had."""
    if not (source / PARTS_FILE).is_file():
        raise UserError(f"{source} has no {PARTS_FILE}: --whole is for models that mmscale trained")
    parts = read_parts(str(source))
    require_sealed_unchanged(parts, ParallelContext(device=device("cpu")))
    require_trained_with(parts)
    language_model, size = _copied(parts.language_model, target / "language_model", to)
    said = f"{size:,} tensors of the LLM"
    copied = replace(parts, language_model=language_model, trained_with={})
    if parts.encoder is not None and parts.mapping is not None:
        encoder, size = _copied(parts.encoder, target / "encoder", to)
        kind = connector(parts.connector)
        kind.write(kind.read(Path(parts.mapping)), target / kind.file)
        said += f", {size:,} of the encoder, the mapping"
        copied = replace(copied, encoder=encoder, mapping=kind.file)
    write_parts(target, copied)
    names = sorted(str(file.relative_to(target)) for file in target.rglob("*") if file.is_file())
    write_seal(target, "whole", hashes(target, names))
    return said


def _copied(config: Part, target: Path, to: dtype | None) -> tuple[Part, int]:
    """The configuration of the copy, and how many tensors it has."""
    target.mkdir()
    copy_besides_weights(_local(config), target)
    (target / PARTS_FILE).unlink(missing_ok=True)  # it names what else lay in the folder of a stage
    files, writer = checkpoint_files(config), ShardWriter(target)
    names = list(files)
    for name in names:
        writer.add(name, converted(files.read(name), to))
    writer.close()
    note_dtype(target, writer)
    change = {"path": f"{FOLDER}/{target.name}", "revision": None}
    return config.model_copy(update={**change, **({"dtype": str(to).removeprefix("torch.")} if to else {})}), len(names)


def _local(config: LanguageModelConfig | EncoderConfig) -> Path:
    """The folder of a model's configuration and tokenizer; of a hub model, they are fetched."""
    path = resolve_path(config.path)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.model", "*.txt", "*.jinja", "*.tiktoken"]
    return Path(snapshot_download(path, revision=config.revision, allow_patterns=wanted))
