"""Which checkpoint lies at a path: what a mapping was trained with, or what gave some answers, is told from what has taken
its place since."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models.loading import found_file
from mmscale.models.seal import SEAL_FILE, is_sealed
from mmscale.models.tensor_files import FORMS, read_object
from mmscale.storage.files import first_change
from mmscale.storage.reading import existing_file

_TOKENIZERS = (
    *("tokenizer_config.json", "tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
    *("vocab.json", "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
)
_BESIDE = ("config.json", *_TOKENIZERS)
"""Files that decide what the weights mean, where a checkpoint has them."""
ANSWERING = ("generation_config.json", "chat_template.jinja")
"""What decides answers beside that: where they end, and the form of a chat."""
_WHOLE_BYTES = 4 << 20
_SAMPLES, _SAMPLE_BYTES = 256, 4096
"""What is read of a larger file: its first megabyte, which holds a safetensors header, and so many places at even distances."""

Digests = dict[str, str]
"""File name -> SHA-256 of its size and content, or of a sample of it."""


def digests(config: LanguageModelConfig | EncoderConfig, more: Sequence[str] = ()) -> Digests:
    """The files of a checkpoint that make its numbers, and `more`; empty for one that carries a seal of its own."""
    folder = Path(config.path).expanduser()
    if is_sealed(folder) or is_sealed(folder.parent):
        return {}
    files = {name: found_file(config, name) for name in (*_BESIDE, *more, *_weights(config))}
    return {name: file_digest(file) for name, file in files.items() if file is not None}


def laid(config: LanguageModelConfig | EncoderConfig) -> Digests:
    """The digests of a checkpoint; of one that a stage of ours wrote, that of the seal which names its files."""
    folder = Path(config.path).expanduser()
    seals = [place / SEAL_FILE for place in (folder, folder.parent) if is_sealed(place)]
    return {SEAL_FILE: file_digest(seals[0])} if seals else digests(config)


def weight_digests(config: LanguageModelConfig | EncoderConfig) -> Digests:
    """The files that hold a checkpoint's tensors, whoever wrote it."""
    files = [found_file(config, name) for name in _weights(config)]
    return {file.name: file_digest(file) for file in files if file is not None}


def _weights(config: LanguageModelConfig | EncoderConfig) -> list[str]:
    """Names of the files that hold the tensors; of none, loading tells."""
    for index, single in FORMS:
        listing = found_file(config, index)
        if listing is not None:
            files = read_object(listing).get("weight_map")
            return sorted(set(map(str, files.values()))) if isinstance(files, dict) else []
        if found_file(config, single) is not None:
            return [single]
    return []


def file_digest(file: Path) -> str:
    """SHA-256 of a file's size and content, of a large one's sample; UserError where there is none."""
    size = existing_file(file, "file").stat().st_size
    digest = hashlib.sha256(f"{size} ".encode())
    with open(file, "rb") as handle:
        digest.update(handle.read(_WHOLE_BYTES if size <= _WHOLE_BYTES else 1 << 20))
        if size > _WHOLE_BYTES:
            for number in range(_SAMPLES):
                handle.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                digest.update(handle.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def require_same(config: LanguageModelConfig | EncoderConfig, trained_with: Digests) -> None:
    """UserError naming the first file that is not what a mapping was trained with; nothing to say without digests."""
    change = first_change(trained_with, laid(config)) if trained_with else None
    if change is not None:
        raise UserError(
            f"{config.path} is not the model that the mapping was trained with: its {change}: put that model back, or "
            f"train the mapping again"
        )
