"""Handing a trained encoder on: the Hugging Face folder it came from, written again with what was trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmscale.config.model import EncoderConfig
from mmscale.errors import UserError
from mmscale.models.encoders.base import load_checkpoint, load_encoder_config, load_encoder_tokenizer
from mmscale.models.export import ShardWriter
from mmscale.storage.files import cannot_write, sync_tree

ENCODER_FOLDER = "encoder"
"""Where a trained encoder lies in the folder of its stage's model."""
ENCODER_PREFIX = "encoder.model."
"""What stands before an encoder's parameter names inside a MergedModel."""


def export_encoder(config: EncoderConfig, trained: Callable[[str], Tensor | None], folder: Path) -> list[str]:
    """Configuration, tokenizer and safetensors shards of an encoder into a new folder; names of the files.

    `trained` gives the value of a parameter of the encoding part by its name, None where it was not trained. What else the
    checkpoint's model has, the decoder of an M2M100 for one, goes along as it was. Raises UserError where it cannot be
    written, or the tokenizer would read texts in another way.
    """
    model, half = load_checkpoint(config, torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in half.named_parameters():
            value = trained(name)
            if value is not None:
                parameter.copy_(value)
    try:
        folder.mkdir()
        _write_weights(model, folder)
        _write_besides(config, model, folder)
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
        sync_tree(folder, names)
    except OSError as error:
        raise cannot_write(folder, error) from error
    _require_same_tokenizer(config, folder)
    return names


def _write_weights(model: Any, folder: Path) -> None:
    """Tied weights once, as transformers writes them."""
    writer = ShardWriter(folder)
    for name, parameter in model.named_parameters():
        writer.add(name, parameter.detach())
    writer.close()


def _write_besides(config: EncoderConfig, model: Any, folder: Path) -> None:
    configuration = load_encoder_config(config)  # T5's encoder class changes its own
    configuration.architectures = [type(model).__name__]
    configuration.dtype = next(model.parameters()).dtype
    configuration.vocab_size = model.config.vocab_size
    configuration.save_pretrained(folder)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.save_pretrained(folder)
    load_encoder_tokenizer(config).tokenizer.save_pretrained(folder)


def _require_same_tokenizer(config: EncoderConfig, folder: Path) -> None:
    written = config.model_copy(update={"path": str(folder), "revision": None, "added_tokens": ()})
    before, after = (load_encoder_tokenizer(one).tokenizer for one in (config, written))
    if before.get_vocab() != after.get_vocab():
        raise UserError(
            f"the tokenizer of {config.path} is another one when transformers has written it: save its folder with "
            f"save_pretrained first, and name that as encoder.path"
        )
