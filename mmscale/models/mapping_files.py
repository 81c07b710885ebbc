"""Mapping checkpoints: ours in safetensors, the MindMerger authors' `pytorch_model.bin` in and out."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mmscale.errors import UserError
from mmscale.models.loading import load_tensors
from mmscale.models.mapping import Mapping
from mmscale.models.tensor_files import open_safetensors, require_content
from mmscale.storage.files import atomic_write
from mmscale.storage.reading import existing_file
from mmscale.storage.tensor_writing import save_tensors

KEYS = ("mlp.linear1.weight", "mlp.linear1.bias", "mlp.linear2.weight", "mlp.linear2.bias", "end_boundary")
_OLD_PREFIX = "linear."
"""Checkpoints from before 2024-05-31 name the keys linear.linear1.*"""


def _current_name(key: str) -> str:
    key = key.removeprefix("module.").removeprefix("mapping.")
    return "mlp." + key.removeprefix(_OLD_PREFIX) if key.startswith(_OLD_PREFIX + "linear") else key


def _from_state(state: dict[str, Tensor], path: Path) -> Mapping:
    """A Mapping of exactly the five published tensors; anything partial is refused by name."""
    renamed = {_current_name(key): value for key, value in state.items()}
    if len(renamed) < len(state):
        raise UserError(f"{path} names a tensor twice ({', '.join(sorted(state))}): it is no mapping checkpoint")
    missing = [key for key in KEYS if key not in renamed]
    extra = sorted(set(renamed) - set(KEYS))
    if missing or extra:
        problem = f"has no tensor {missing[0]}" if missing else f"has an unknown tensor {extra[0]}"
        raise UserError(f"{path} {problem}: a mapping has exactly {', '.join(KEYS)}")
    first, second = renamed[KEYS[0]], renamed[KEYS[2]]
    if (
        first.dim() != 2
        or second.dim() != 2
        or first.shape[0] != 2 * first.shape[1]
        or second.shape[1] != first.shape[0]
    ):
        raise UserError(
            f"{path}: tensors {KEYS[0]} {tuple(first.shape)} and {KEYS[2]} {tuple(second.shape)} make no two-layer mapping d -> 2d -> D"
        )
    for key, value in renamed.items():
        if not value.is_floating_point() or not value.isfinite().all():
            raise UserError(f"{path}: tensor {key} ({value.dtype}) is not of finite numbers: the file is damaged")
    mapping = Mapping(first.shape[1], second.shape[0])
    try:
        mapping.load_state_dict({key: value.float() for key, value in renamed.items()})
    except RuntimeError as error:
        raise UserError(f"{path}: {str(error).splitlines()[-1].strip()}") from error
    return mapping


def file_of(path: Path) -> Path:
    """The mapping file that a path names, or that is in the folder it names; UserError where there is none."""
    if path.is_dir():
        candidates = [path / "mapping.safetensors", path / "pytorch_model.bin"]
        path = next((file for file in candidates if file.is_file()), candidates[0])
    return existing_file(path, "mapping checkpoint")


def read(path: Path) -> Mapping:
    """A mapping from a folder or file, safetensors or the authors' `pytorch_model.bin` (either generation of keys)."""
    path = file_of(path)
    if path.suffix == ".safetensors":
        with open_safetensors(path) as file:
            return _from_state({name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    require_content(path)
    loaded = load_tensors(path)
    state = loaded.get("model_state_dict", loaded) if isinstance(loaded, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} holds no model_state_dict of tensors: it is no mapping checkpoint")
    return _from_state(state, path)


def write(mapping: Mapping, path: Path) -> None:
    """mapping.safetensors: the five published tensors in float32."""
    save_tensors({key: value.detach().float().cpu().contiguous() for key, value in mapping.state_dict().items()}, path)


def write_authors_format(mapping: Mapping, path: Path) -> None:
    """`pytorch_model.bin` as the authors' code loads it: {'model_state_dict': five tensors}, bfloat16, legacy zip-less."""
    state = {key: value.detach().to(torch.bfloat16).cpu() for key, value in mapping.state_dict().items()}
    with atomic_write(path, "wb") as handle:
        torch.save({"model_state_dict": state}, handle, _use_new_zipfile_serialization=False)
