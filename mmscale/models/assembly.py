"""Which parts make a model, where they lie, and how they are put together."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.errors import UserError
from mmscale.files import write_json
from mmscale.models import mapping_files
from mmscale.models.counting import encoder_width
from mmscale.models.encoders import load_encoder, load_encoder_tokenizer
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.language_model import LanguageModel, load_language_model
from mmscale.models.loading import freeze
from mmscale.models.mapping import Mapping
from mmscale.models.merge import MergedModel
from mmscale.parallel.layout import Layout

PARTS_FILE = "mmscale.json"
FINGERPRINT_FILE = "fingerprint.json"
FOLDER = "{folder}"
"""In a path: the folder of the parts file."""
Part = TypeVar("Part", LanguageModelConfig, EncoderConfig)


@dataclass(frozen=True)
class ModelParts:
    """A plain language model, or one with an encoder and a mapping in front."""

    language_model: LanguageModelConfig
    encoder: EncoderConfig | None = None
    mapping: str | None = None
    """Mapping file; None with an encoder means a new one."""
    prompt: str | None = None
    """Template it was trained with."""

    def to_json(self) -> dict[str, Any]:
        return {
            "language_model": self.language_model.model_dump(mode="json"),
            "encoder": self.encoder.model_dump(mode="json") if self.encoder else None,
            "mapping": self.mapping,
            "prompt": self.prompt,
        }


def write_parts(folder: Path, parts: ModelParts) -> None:
    write_json(folder / PARTS_FILE, parts.to_json())


def read_parts(path: str) -> ModelParts:
    """Parts of a folder that mmscale wrote, or a plain language model at any other path or hub id."""
    file = Path(path) / PARTS_FILE
    if not file.is_file():
        return ModelParts(LanguageModelConfig(path=path))
    values = json.loads(file.read_text(encoding="utf-8"))
    try:
        encoder = _beside(EncoderConfig(**values["encoder"]), file.parent) if values["encoder"] else None
        language_model = LanguageModelConfig(**values["language_model"])
        return ModelParts(
            _beside(language_model, file.parent),
            encoder,
            _beside_path(values["mapping"], file.parent),
            values["prompt"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file} does not describe a model ({error}): write it again by finishing its stage") from error


def provenance(parts: ModelParts) -> list[str]:
    """What mmscale itself wrote about how these parts were made; empty for models from elsewhere."""
    folders = [Path(parts.language_model.path), *([Path(parts.mapping).parent] if parts.mapping else [])]
    marks = [folder / FINGERPRINT_FILE for folder in folders]
    return [mark.read_text(encoding="utf-8") for mark in marks if mark.is_file()]


def _beside(config: Part, folder: Path) -> Part:
    """A path of "." or "{folder}/NAME" is that of the parts file itself, so that the folder can be moved."""
    path = str(folder) if config.path == "." else config.path.replace(FOLDER, str(folder))
    return config.model_copy(update={"path": path})


def _beside_path(path: str | None, folder: Path) -> str | None:
    return path if path is None or Path(path).is_absolute() else str(folder / path)


def assemble(
    parts: ModelParts,
    layout: Layout,
    seed: int = 0,
    llm_loading: AbstractContextManager[None] | None = None,
    with_encoder: bool = True,
) -> tuple[MergedModel, FamilyTokenizer | None]:
    """The model and, when it has an encoder, the encoder's tokenizer; everything frozen, in evaluation mode.

    A new mapping is initialised from `seed`, the same whatever was loaded before it and however. The LLM is
    loaded inside `llm_loading`, which may send its shards elsewhere. Without its encoder a model works on rows that
    bring their encoder states.
    """
    with llm_loading or nullcontext():
        language_model = load_language_model(parts.language_model, layout)
    if parts.encoder is None:
        model = MergedModel(language_model)
        freeze(model)
        return model, None
    encoder = load_encoder(parts.encoder, layout.device) if with_encoder else None
    if parts.mapping:
        mapping = mapping_files.read(Path(parts.mapping))
    else:
        width = encoder_width(parts.encoder)
        torch.manual_seed(seed)
        mapping = Mapping(width, language_model.width)
    model = MergedModel(language_model, encoder, mapping.to(layout.device))
    freeze(model)
    return model, load_encoder_tokenizer(parts.encoder)


def make_trainable(language_model: LanguageModel, gradient_checkpointing: bool, frozen: bool) -> None:
    """Prepare the LLM of a training step: gradients or none, activations kept or computed again."""
    if not frozen:
        language_model.requires_grad_(True)
        language_model.train()
    if gradient_checkpointing:
        language_model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
        for module in language_model.causal_lm.modules():
            # a layer checkpoints only while its own flag says training; its children stay in evaluation mode
            if hasattr(module, "gradient_checkpointing"):
                module.training = True
