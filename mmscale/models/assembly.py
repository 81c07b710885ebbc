"""Which parts make a model, where they lie, and how they are put together."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from mmscale.config.model import DEFAULT_CONNECTOR, EncoderConfig, LanguageModelConfig
from mmscale.config.prompt import is_written, written
from mmscale.errors import NotHereYet, UserError
from mmscale.models.connectors import Depths, connector
from mmscale.models.counting import encoder_depth, encoder_width
from mmscale.models.encoders import load_encoder, load_encoder_tokenizer
from mmscale.models.encoders.base import FamilyTokenizer
from mmscale.models.identity import ANSWERING, Digests, digests, file_digest, laid, require_same, weight_digests
from mmscale.models.language_model import LanguageModel, load_language_model
from mmscale.models.loading import freeze
from mmscale.models.merge import MergedModel
from mmscale.models.seal import SEAL_FILE, is_sealed, require_unchanged
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.zero import Partition
from mmscale.storage.files import write_json
from mmscale.storage.reading import read_json_object

PARTS_FILE = "mmscale.json"
_REMEDY = "copy the folder again, or finish its stage again"
FOLDER = "{folder}"
"""In a path: the folder of the parts file."""
Part = TypeVar("Part", LanguageModelConfig, EncoderConfig)


@dataclass(frozen=True, kw_only=True)
class ModelParts:
    """A plain language model, or one with an encoder and a connector in front."""

    language_model: LanguageModelConfig
    encoder: EncoderConfig | None = None
    mapping: str | None = None
    """File of the connector's weights; None with an encoder means a new one."""
    prompt: str | None = None
    """Template it was trained with."""
    trained_with: dict[str, Digests] = field(default_factory=dict)
    """What lay at the paths of "language_model" and "encoder" when the mapping was trained, where another folder holds them."""
    connector: str = DEFAULT_CONNECTOR
    """Name of what joins encoder and language model; without meaning where there is no encoder."""

    def to_json(self) -> dict[str, Any]:
        return {
            "language_model": self.language_model.model_dump(mode="json"),
            "encoder": self.encoder.model_dump(mode="json") if self.encoder else None,
            "mapping": self.mapping,
            "prompt": self.prompt,
            **({"trained_with": self.trained_with} if self.trained_with else {}),
            **({"connector": self.connector} if self.connector != DEFAULT_CONNECTOR else {}),
        }


def write_parts(folder: Path, parts: ModelParts) -> None:
    write_json(folder / PARTS_FILE, parts.to_json())


def portable(parts: ModelParts, model: MergedModel) -> ModelParts:
    """The same parts wherever the file that names them goes: local folders by their whole path, hub models by commit."""
    config = model.language_model.config
    encoder = parts.encoder and _named_wholly(parts.encoder, model.encoder.model.config if model.encoder else None)
    return replace(parts, language_model=_named_wholly(parts.language_model, config), encoder=encoder)


def _named_wholly(config: Part, loaded: Any) -> Part:
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        return config.model_copy(update={"path": str(folder.resolve())})
    commit = getattr(loaded, "_commit_hash", None)
    return config.model_copy(update={"revision": commit or config.revision})


def read_parts(path: str) -> ModelParts:
    """Parts of a folder that mmscale wrote, or a plain language model at any other path or hub id.

    The file says which models, in which precision; never that code of theirs may run, nor how this machine runs them.
    """
    file = Path(path).expanduser() / PARTS_FILE
    if not file.is_file():
        return ModelParts(language_model=LanguageModelConfig(path=path))
    values = read_json_object(file, _REMEDY)
    try:
        return _parts_of(values, file.parent)
    except ValidationError as error:
        first = error.errors()[0]
        raise _no_parts(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _no_parts(file, f"{type(error).__name__}: {error}") from error


def _no_parts(file: Path, reason: str) -> UserError:
    said = " ".join(reason.split())
    return UserError(f"{file} does not describe a model ({said}): {_REMEDY}")


def _parts_of(values: dict[str, Any], folder: Path) -> ModelParts:
    """KeyError, TypeError or ValueError where the file holds something else."""
    mapping, prompt = values["mapping"], values["prompt"]
    if not isinstance(mapping, (str, type(None))) or not isinstance(prompt, (str, type(None))):
        raise ValueError("mapping and prompt are texts or null")
    if prompt is not None and is_written(prompt) and written(prompt).exemplars is not None:
        raise ValueError("a model's own prompt names no file: ask by exemplars with --exemplars")
    encoder = _beside(EncoderConfig(**_untrusted(values["encoder"])), folder) if values["encoder"] else None
    language_model = _beside(LanguageModelConfig(**_untrusted(values["language_model"])), folder)
    if (mapping is None) != (encoder is None):
        raise ValueError("an encoder and a mapping need each other")
    where = None if mapping is None else str(_inside(folder, mapping))
    before, joined_by = _trained_with(values.get("trained_with", {})), values.get("connector", DEFAULT_CONNECTOR)
    if not isinstance(joined_by, str):
        raise ValueError("connector is a name")
    return ModelParts(
        language_model=language_model,
        encoder=encoder,
        mapping=where,
        prompt=prompt,
        trained_with=before,
        connector=joined_by,
    )


def _trained_with(values: Any) -> dict[str, Digests]:
    if not isinstance(values, dict) or not all(isinstance(held, dict) for held in values.values()):
        raise ValueError("trained_with holds the digests of files")
    return {part: {str(name): str(digest) for name, digest in held.items()} for part, held in values.items()}


def _untrusted(values: dict[str, Any]) -> dict[str, Any]:
    """Without what only a user's own configuration or flag may say."""
    return {key: value for key, value in values.items() if key not in ("trust_remote_code", "attention")}


def provenance(parts: ModelParts) -> list[str]:
    """What mmscale itself wrote about how these parts were made; empty for models from elsewhere."""
    return [(folder / SEAL_FILE).read_text(encoding="utf-8") for folder in _sealed(parts)]


def wherever_it_lies(parts: ModelParts) -> ModelParts:
    """The same parts, of which those in folders that mmscale wrote are named by what `provenance` says of them: results that
    are moved, or read from another folder, stay the same.
    """
    sealed = _sealed(parts)

    def named(path: str) -> str:
        around = [number for number, folder in enumerate(sealed) if Path(path).is_relative_to(folder)]
        return f"{around[0]}/{Path(path).relative_to(sealed[around[0]])}" if around else path

    def held(config: Part) -> Part:
        return config.model_copy(update={"path": named(config.path)})

    return replace(
        parts,
        language_model=held(parts.language_model),
        encoder=parts.encoder and held(parts.encoder),
        mapping=parts.mapping and named(parts.mapping),
    )


def require_sealed_unchanged(parts: ModelParts, context: ParallelContext) -> None:
    """UserError, on all ranks, where something that a stage wrote is no longer as it wrote it."""
    for folder in _sealed(parts):
        require_unchanged(folder, context)


def trained_with(parts: ModelParts) -> dict[str, Digests]:
    """What lies at the paths of the language model and the encoder."""
    parts_held = {"language_model": laid(parts.language_model), "encoder": parts.encoder and laid(parts.encoder)}
    return {part: held for part, held in parts_held.items() if held}


def answering_files(parts: ModelParts) -> dict[str, Digests]:
    """What lies at the paths of parts that no stage of ours wrote, by path, and decides what they answer; without what is
    not here (now)."""
    files: dict[str, Digests] = {}
    for config in (parts.language_model, parts.encoder):
        with suppress(NotHereYet):
            if config is not None:
                files[_name(config)] = digests(config, ANSWERING)
    if parts.mapping and Path(parts.mapping).is_file() and Path(parts.mapping).parent not in _sealed(parts):
        files[parts.mapping] = {Path(parts.mapping).name: file_digest(Path(parts.mapping))}
    return {path: held for path, held in files.items() if held}


def _name(config: LanguageModelConfig | EncoderConfig) -> str:
    return config.path if config.revision is None else f"{config.path} ({config.revision})"


def require_trained_with(parts: ModelParts) -> None:
    """UserError where another model lies at the path of one that the mapping was trained with."""
    require_same(parts.language_model, parts.trained_with.get("language_model", {}))
    if parts.encoder is not None:
        require_same(parts.encoder, parts.trained_with.get("encoder", {}))


def require_goes_with(mapping: Path, encoder: EncoderConfig) -> None:
    """UserError where a mapping was trained with an encoder that a stage of ours wrote, and another one is named with it."""
    if not (mapping.parent / PARTS_FILE).is_file():
        return
    own = read_parts(str(mapping.parent)).encoder
    if own is None or not is_sealed(Path(own.path).parent) or weight_digests(own) == weight_digests(encoder):
        return
    raise UserError(f"{mapping} was trained with the encoder {own.path}: name that one with it, not {encoder.path}")


def _sealed(parts: ModelParts) -> list[Path]:
    """Folders of these parts that a stage, or `mmscale convert --whole`, wrote."""
    named = [Path(parts.language_model.path), *([Path(parts.mapping)] if parts.mapping else [])]
    named += [Path(parts.encoder.path)] if parts.encoder is not None else []
    around = [folder for path in named if path.exists() for folder in (path, path.parent) if is_sealed(folder)]
    return list(dict.fromkeys(around))


def _beside(config: Part, folder: Path) -> Part:
    """A path of "." or "{folder}/NAME" is that of the parts file itself, so that the folder can be moved."""
    if config.path == ".":
        return config.model_copy(update={"path": str(folder)})
    begin, mark, name = config.path.partition(FOLDER)
    if not mark:
        return config
    if begin or not name.startswith("/"):
        raise ValueError(f"{config.path} is neither a path nor {FOLDER}/NAME")
    return config.model_copy(update={"path": str(_inside(folder, name[1:]))})


def _inside(folder: Path, name: str) -> Path:
    """A file or folder below another; ValueError where its name leads elsewhere."""
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError(f"{name} is not inside of its folder")
    return folder / name


def assemble(
    parts: ModelParts,
    context: ParallelContext,
    seed: int = 0,
    llm_loading: AbstractContextManager[Partition | None] | None = None,
    with_encoder: bool = True,
) -> tuple[MergedModel, FamilyTokenizer | None]:
    """The model and, when it has an encoder, the encoder's tokenizer; everything frozen, in evaluation mode.

    A new connector is initialised from `seed`, the same whatever was loaded before it and however. The LLM is
    loaded inside `llm_loading`, which may send its tensors elsewhere. Without its encoder a model works on rows that
    bring their encoder states.
    """
    require_sealed_unchanged(parts, context)
    context.on_first(lambda: require_trained_with(parts))
    with llm_loading or nullcontext() as partition:
        language_model = load_language_model(parts.language_model, context, partition)
    if parts.encoder is None:
        model = MergedModel(language_model)
        freeze(model)
        return model, None
    kind = connector(parts.connector)
    encoder = load_encoder(parts.encoder, context.device, kind.reads_all_layers) if with_encoder else None
    if parts.mapping:
        joins = kind.read(Path(parts.mapping))
    else:
        width = encoder_width(parts.encoder)
        torch.manual_seed(seed)
        depths = Depths(encoder_depth(parts.encoder), language_model.depth)
        joins = kind.build(width, language_model.width, depths)
    model = MergedModel(language_model, encoder, joins.to(context.device))
    freeze(model)
    return model, load_encoder_tokenizer(parts.encoder)


def make_trainable(language_model: LanguageModel, gradient_checkpointing: bool, frozen: bool) -> None:
    """Prepare the LLM of a training step: gradients or none, activations kept or computed again."""
    if not frozen:
        language_model.requires_grad_(True)
        language_model.train()
    if gradient_checkpointing:
        checkpoint_activations(language_model)


def checkpoint_activations(language_model: LanguageModel) -> None:
    """Compute a layer's activations again in the backward pass, instead of keeping them."""
    language_model.causal_lm.gradient_checkpointing_enable({"use_reentrant": False})
    for module in language_model.causal_lm.modules():
        # a layer checkpoints only while its own flag says training; its children stay in evaluation mode
        if hasattr(module, "gradient_checkpointing"):
            module.training = True
