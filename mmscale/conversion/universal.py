"""DeepSpeed's universal checkpoint (ds_to_universal.py) as a Hugging Face folder.

`zero/NAME/fp32.pt` holds each trained parameter in float32: {"param": tensor}, perhaps with rows of padding, from
stages 1 and 2; the bare flattened tensor, perhaps with padding at its end, from stage 3.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, dtype

from mmscale.config.model import LanguageModelConfig
from mmscale.conversion.hugging_face import converted, copy_besides_weights, note_dtype
from mmscale.errors import UserError
from mmscale.models.counting import empty_language_model
from mmscale.models.export import ShardWriter
from mmscale.models.loading import load_tensors

_LATEST = "latest_universal"
_PREFIXES = ("", "module.", "model.", "causal_lm.", "base_model.")
"""What wrappers put before a model's own names."""


def find(source: Path) -> Path | None:
    """The folder of a universal checkpoint's parameters, at `source` or where its `latest_universal` points."""
    named = source / _LATEST
    step = source / named.read_text(encoding="utf-8").strip() if named.is_file() else source
    return step / "zero" if (step / "zero").is_dir() else None


def _parameter(folder: Path, shape: tuple[int, ...], size: int) -> Tensor:
    file = folder / "fp32.pt"
    if not file.is_file():
        raise UserError(f"{file} is missing: run DeepSpeed's ds_to_universal.py again, it did not finish")
    content = load_tensors(file)
    value = content.get("param") if isinstance(content, dict) else content
    if not isinstance(value, Tensor):
        raise UserError(f"{file} holds no tensor 'param': it is not of a universal checkpoint")
    if (value.dim() > 1 and tuple(value.shape[1:]) != shape[1:]) or value.numel() < size:
        raise UserError(f"{file} has shape {list(value.shape)}, the configuration says {list(shape)}: name its --base")
    return value.reshape(-1)[:size].reshape(shape)


def to_hugging_face(zero: Path, base: Path, target: Path, to: dtype | None) -> str:
    """Write `target` with the configuration and tokenizer of `base`; a parameter that is not there is refused by name."""
    expected = dict(empty_language_model(LanguageModelConfig(path=str(base))).named_parameters())
    have = {folder.name for folder in zero.iterdir() if folder.is_dir()}
    prefix = max(_PREFIXES, key=lambda p: sum(p + name in have for name in expected))
    for name in expected:
        if prefix + name not in have:
            raise UserError(
                f"{zero} has no parameter {name}: a universal checkpoint holds what was trained, and {base} is another "
                f"model, or a part of it was frozen"
            )
    copy_besides_weights(base, target)
    writer = ShardWriter(target)
    for name, parameter in expected.items():
        value = _parameter(zero / (prefix + name), tuple(parameter.shape), parameter.numel())
        writer.add(name, converted(value, to))
    writer.close()
    note_dtype(target, writer)
    extra = len(have) - len(expected)
    return f"{len(expected):,} tensors" + (f"; {extra} others left out" if extra else "")
