"""LangBridge (arXiv 2401.10695): one linear layer between a multilingual encoder and an LLM, as a connector of ours.

Its `enc_eos` is the row that ends the encoder's states, our end boundary.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.conversion.hugging_face import converted, copy_besides_weights, note_dtype
from mmscale.errors import UserError
from mmscale.models.accounting import outlined, require_whole
from mmscale.models.assembly import FOLDER, ModelParts, write_parts
from mmscale.models.connectors.base import load
from mmscale.models.connectors.layers import LANGBRIDGE, LayeredConnector
from mmscale.models.counting import empty_language_model
from mmscale.models.encoders.base import family, family_of, load_encoder_config, load_encoder_tokenizer
from mmscale.models.export import ShardWriter
from mmscale.models.tensor_files import TensorFiles, read_object
from mmscale.models.weights import checkpoint_files
from mmscale.progress import say

_ENCODER, _LLM, _ALIGNMENT = "lb.enc.", "lb.lm.", "lb.alignment."
_HEAD, _EMBEDDINGS = "lb.lm_head.weight", "lb.embeddings.weight"
"""They stand beside `lb.lm`, which is the decoder without either's name."""
_SETTINGS = {"enc", "lm", "dim_enc", "dim_lm", "alignments"}
_WHITE_SPACE = "\n"
PROMPT = "langbridge"
"""The LLM reads no text."""


def is_langbridge(source: Path) -> bool:
    """Whether a folder holds their class: its configuration names no model type, so that AutoModel knows it for none."""
    file = source / "config.json"
    values = read_object(file) if file.is_file() else {}
    named = values.get("architectures")
    return (isinstance(named, list) and "LangBridgeModel" in named) or values.keys() >= _SETTINGS


def _connector(files: TensorFiles) -> LayeredConnector:
    names = {name.removeprefix(_ALIGNMENT) for name in files if name.startswith(_ALIGNMENT)}
    unknown = sorted(names - {"linear.weight", "linear.bias", "enc_eos"})
    missing = sorted({"linear.weight", "enc_eos"} - names)
    if unknown or missing:
        problem = f"the unknown tensor {unknown[0]}" if unknown else f"no tensor {missing[0]}"
        raise UserError(
            f"{files.folder}: its alignment has {problem}: only the linear one (linear.weight, linear.bias, enc_eos) "
            f"has a counterpart here"
        )
    weight_DE, end_D = files.read(_ALIGNMENT + "linear.weight"), files.read(_ALIGNMENT + "enc_eos")
    bias_D = files.read(_ALIGNMENT + "linear.bias") if "linear.bias" in names else torch.zeros_like(end_D)
    made = LayeredConnector(weight_DE.shape[1], weight_DE.shape[0])
    load(made, {"layers.0.weight": weight_DE, "layers.0.bias": bias_D, "end_boundary": end_D}, files.folder)
    return made


def _names(files: TensorFiles) -> tuple[dict[str, str], dict[str, str]]:
    """(name in the LLM's own checkpoint -> name here, the same of the encoder); UserError for a tensor of neither."""
    embeddings = (
        "decoder.embed_tokens.weight" if any(n.startswith(_LLM + "decoder.") for n in files) else "embed_tokens.weight"
    )
    llm = {f"model.{name.removeprefix(_LLM)}": name for name in files if name.startswith(_LLM)}
    encoder = {name.removeprefix(_ENCODER): name for name in files if name.startswith(_ENCODER)}
    for target, name in (("lm_head.weight", _HEAD), (f"model.{embeddings}", _EMBEDDINGS)):
        if name in files:
            _require_equal(files, llm.get(target, name), name)
            llm[target] = name
    known = {*llm.values(), *encoder.values()}
    for name in files:
        if name not in known and not name.startswith(_ALIGNMENT) and name != f"{_LLM}{embeddings}":
            raise UserError(f"{files.folder} holds the tensor {name}, which has no place in a LangBridge checkpoint")
    return llm, encoder


def _require_equal(files: TensorFiles, one: str, other: str) -> None:
    if one != other and not torch.equal(files.read(one), files.read(other)):
        raise UserError(f"{files.folder}: {one} and {other} differ, though LangBridge makes them one: copy it again")


def _write_part(files: TensorFiles, names: dict[str, str], base: Path, target: Path, to: torch.dtype | None) -> None:
    target.mkdir()
    copy_besides_weights(base, target)
    writer = ShardWriter(target)
    for target_name, name in names.items():
        writer.add(target_name, converted(files.read(name), to))
    writer.close()
    note_dtype(target, writer)


def _require_whole(source: Path, target: Path) -> None:
    """UserError where a part is not all that its configuration says."""
    llm = LanguageModelConfig(path=str(target / "language_model"))
    files, origin = checkpoint_files(llm), f"{source} (its {_LLM}*)"
    require_whole(outlined(lambda: empty_language_model(llm), files, origin), files, origin)
    encoder = EncoderConfig(path=str(target / "encoder"))
    chosen, config = family(family_of(encoder)), load_encoder_config(encoder)
    files, origin = checkpoint_files(encoder), f"{source} (its {_ENCODER}*)"
    require_whole(outlined(lambda: chosen.build(config), files, origin), files, origin, re.compile(chosen.beside))


def _warn_of_white_space(encoder: Path) -> None:
    tokenizer = load_encoder_tokenizer(EncoderConfig(path=str(encoder))).tokenizer
    if tokenizer.convert_tokens_to_ids(_WHITE_SPACE) in (None, tokenizer.unk_token_id):
        say(
            "the encoder's tokenizer has no tokens for line breaks and runs of spaces, which LangBridge trains with "
            "(add_new_lines_to_enc): if this checkpoint did, give --encoder a folder with its own tokenizer "
            "(kaist-ai/langbridge_encoder_tokenizer)"
        )


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
    """Write `target` as a model folder of ours: language_model/, encoder/, connector.safetensors; says what was written."""
    llm_base = base_of(source, "lm", "--base", language_model)
    encoder_base = base_of(source, "enc", "--encoder", encoder)
    files = TensorFiles(source)
    joins = _connector(files)
    llm, of_encoder = _names(files)
    _write_part(files, llm, llm_base, target / "language_model", to)
    _write_part(files, of_encoder, encoder_base, target / "encoder", to)
    _require_whole(source, target)
    _warn_of_white_space(target / "encoder")
    LANGBRIDGE.write(joins, target / LANGBRIDGE.file)
    llm_there = LanguageModelConfig(path=f"{FOLDER}/language_model")
    encoder_there = EncoderConfig(path=f"{FOLDER}/encoder")
    write_parts(
        target,
        ModelParts(
            language_model=llm_there,
            encoder=encoder_there,
            mapping=LANGBRIDGE.file,
            prompt=PROMPT,
            connector=LANGBRIDGE.name,
        ),
    )
    widths = f"{joins.encoder_width} -> {joins.llm_width}"
    return f"{len(llm):,} tensors of the LLM, {len(of_encoder):,} of the encoder, a linear layer {widths}"
