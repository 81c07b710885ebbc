"""LangBridge (arXiv 2401.10695): one linear layer between a multilingual encoder and an LLM, as a mapping of ours.

A linear layer is a two-layer mapping exactly: W x + b = [W, -W] relu([I; -I] x) + b. Its `enc_eos` is the row that
ends the encoder's states, our end boundary.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.conversion.hugging_face import converted, copy_besides_weights, note_dtype
from mmscale.errors import UserError
from mmscale.models import mapping_files
from mmscale.models.assembly import FOLDER, ModelParts, write_parts
from mmscale.models.export import ShardWriter
from mmscale.models.mapping import Mapping
from mmscale.models.tensor_files import TensorFiles, read_object

_ENCODER, _LLM, _ALIGNMENT = "lb.enc.", "lb.lm.", "lb.alignment."
PROMPT = "langbridge"
"""The LLM reads no text."""


def is_langbridge(source: Path) -> bool:
    file = source / "config.json"
    return file.is_file() and read_object(file).get("model_type") == "langbridge"


def as_mapping(weight_DE: Tensor, bias_D: Tensor | None, end_D: Tensor) -> Mapping:
    """The mapping d_enc -> 2 d_enc -> d_llm that equals a linear layer, in float32."""
    llm_width, encoder_width = weight_DE.shape
    mapping = Mapping(encoder_width, llm_width)
    unit, weight = torch.eye(encoder_width), weight_DE.float()
    state = {
        "mlp.linear1.weight": torch.cat([unit, -unit]),
        "mlp.linear1.bias": torch.zeros(2 * encoder_width),
        "mlp.linear2.weight": torch.cat([weight, -weight], dim=1),
        "mlp.linear2.bias": torch.zeros(llm_width) if bias_D is None else bias_D.float(),
        "end_boundary": end_D.float().reshape(1, 1, llm_width),
    }
    mapping.load_state_dict(state)
    return mapping


def _mapping(files: TensorFiles) -> Mapping:
    names = {name.removeprefix(_ALIGNMENT) for name in files if name.startswith(_ALIGNMENT)}
    unknown = sorted(names - {"linear.weight", "linear.bias", "enc_eos"})
    missing = sorted({"linear.weight", "enc_eos"} - names)
    if unknown or missing:
        problem = f"the unknown tensor {unknown[0]}" if unknown else f"no tensor {missing[0]}"
        raise UserError(
            f"{files.folder}: its alignment has {problem}: only the linear one (linear.weight, linear.bias, enc_eos) "
            f"has an exact counterpart here"
        )
    bias = files.read(_ALIGNMENT + "linear.bias") if "linear.bias" in names else None
    return as_mapping(files.read(_ALIGNMENT + "linear.weight"), bias, files.read(_ALIGNMENT + "enc_eos"))


def _write_part(files: TensorFiles, prefix: str, base: Path, target: Path, to: torch.dtype | None) -> int:
    names = [name for name in files if name.startswith(prefix)]
    if not names:
        raise UserError(f"{files.folder} has no tensor {prefix}*: it is no whole LangBridge checkpoint")
    target.mkdir()
    copy_besides_weights(base, target)
    writer = ShardWriter(target)
    for name in names:
        writer.add(name.removeprefix(prefix), converted(files.read(name), to))
    writer.close()
    note_dtype(target, writer)
    return len(names)


def base_of(source: Path, key: str, option: str, given: Path | None) -> Path:
    """The folder with a part's configuration and tokenizer: what was given, or what the checkpoint names."""
    named = read_object(source / "config.json").get(key)
    if given is None and not (isinstance(named, str) and Path(named).is_dir()):
        raise UserError(f"{source} was made from {named}, which is no folder here: name a local copy with {option}")
    return given or Path(str(named))


def split(
    source: Path,
    language_model: Path | None,
    encoder: Path | None,
    target: Path,
    to: torch.dtype | None,
) -> str:
    """Write `target` as a model folder of ours: language_model/, encoder/, mapping.safetensors; says what was written."""
    llm_base = base_of(source, "lm", "--base", language_model)
    encoder_base = base_of(source, "enc", "--encoder", encoder)
    files = TensorFiles(source)
    mapping = _mapping(files)
    in_llm = _write_part(files, _LLM, llm_base, target / "language_model", to)
    in_encoder = _write_part(files, _ENCODER, encoder_base, target / "encoder", to)
    mapping_files.write(mapping, target / "mapping.safetensors")
    own = LanguageModelConfig(path=f"{FOLDER}/language_model"), EncoderConfig(path=f"{FOLDER}/encoder")
    write_parts(target, ModelParts(*own, mapping="mapping.safetensors", prompt=PROMPT))
    widths = f"{mapping.encoder_width} -> {mapping.llm_width}"
    return f"{in_llm:,} tensors of the LLM, {in_encoder:,} of the encoder, a mapping {widths}"
