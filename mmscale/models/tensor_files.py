"""The named tensors of a checkpoint, safetensors or torch's, from a folder or the hub: what its files say is checked.

An index may lie and a file may be half a download; both are told before anything is loaded. Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from mmscale.errors import UserError
from mmscale.models.loading import AGAIN, load_tensors
from mmscale.storage.reading import read_json_object

SAFETENSORS = (SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME)
FORMS = (SAFETENSORS, (WEIGHTS_INDEX_NAME, WEIGHTS_NAME))
"""(index, single file) in the order of preference."""
_POINTER = b"version https://git-lfs"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; UserError when the file holds none."""
    return read_json_object(path, AGAIN)


def open_safetensors(path: Path) -> Any:
    """A file's header read and held against its length; UserError where it is damaged, cut short or a stand-in."""
    require_content(path)
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is damaged or half a download ({error}): {AGAIN}") from error


def require_content(path: Path) -> None:
    """UserError where a file is what git leaves in place of a large one, or empty."""
    with open(path, "rb") as handle:
        begin = handle.read(len(_POINTER))
    if begin == _POINTER:
        raise UserError(f"{path} is a git-lfs pointer, not the weights: fetch them with git lfs pull")
    if not begin:
        raise UserError(f"{path} is empty: {AGAIN}")


class TensorFiles:
    """A checkpoint in the Hugging Face layout; the file a tensor is in is opened when it is wanted, the last one kept."""

    def __init__(
        self,
        origin: Path | str,
        find: Callable[[str], Path | None] | None = None,
        forms: tuple[tuple[str, str], ...] = FORMS,
    ) -> None:
        """Open a local folder, or what `find` knows by name. Raises UserError where there are no weights, a shard is
        missing, damaged or outside of the folder, or the index and the shards contradict each other.
        """
        self.folder = Path(origin)
        self._origin = str(origin)
        self._find = find or self._beside
        self._name = ""
        self._content: Any = None
        index, self._files = self._listed(forms)
        if index is not None:
            self._require_as_listed(index)

    def _beside(self, name: str) -> Path | None:
        file = self.folder / name
        return file if file.is_file() else None

    def _listed(self, forms: tuple[tuple[str, str], ...]) -> tuple[str | None, dict[str, str]]:
        """(name of the index, file of every tensor)."""
        for index, single in forms:
            listing, whole = self._find(index), self._find(single)
            if listing is not None:
                files = read_object(listing).get("weight_map")
                if not isinstance(files, dict) or not files or not all(isinstance(f, str) for f in files.values()):
                    raise UserError(f"{listing} names no tensors and their files: {AGAIN}")
                if whole is not None and single not in files.values():
                    raise UserError(
                        f"{self._origin} holds both {single} and shards by {index}: remove those that are not the model"
                    )
                return index, files
            if whole is not None:
                return None, dict.fromkeys(self._names_in(single), single)
        raise UserError(f"{self._origin} holds none of {', '.join(name for form in forms for name in form)}")

    def _require_as_listed(self, index: str) -> None:
        shards = sorted(set(self._files.values()))
        for shard in shards:
            if Path(shard).name != shard or shard == "..":
                raise UserError(f"{self._origin}: {index} names {shard}, which is no file beside it: {AGAIN}")
            self._path(shard)
        for shard in shards:
            listed = {name for name, file in self._files.items() if file == shard}
            inside = set(self._names_in(shard))
            for name in sorted(listed ^ inside):
                where = f"not in {shard}" if name in listed else f"in {shard}, where {index} does not name it"
                raise UserError(f"{self._origin}: tensor {name} is {where}: {AGAIN}")

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors, those of one file together."""
        return iter(sorted(self._files, key=lambda name: (self._files[name], name)))

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def _open(self, name: str) -> Any:
        if name != self._name:
            path = self._path(name)
            self._content = open_safetensors(path) if path.suffix == ".safetensors" else _of_torch(path)
            self._name = name
        return self._content

    def _path(self, name: str) -> Path:
        path = self._find(name)
        if path is None:
            raise UserError(f"{self._origin} lacks its shard {name}: {AGAIN}")
        return path

    def _names_in(self, file: str) -> list[str]:
        return list(self._open(file).keys())

    def read(self, name: str) -> Tensor:
        content = self._open(self._files[name])
        value = content[name] if isinstance(content, dict) else content.get_tensor(name)
        if not isinstance(value, Tensor):
            raise UserError(f"{self.folder / self._files[name]}: {name} is no tensor but {type(value).__name__}")
        return value

    def slice_of(self, name: str) -> Any:
        """A tensor of a safetensors file that can be read in parts."""
        return self._open(self._files[name]).get_slice(name)

    def without_values(self) -> dict[str, Tensor]:
        """Every tensor on the meta device: its shape and dtype alone."""
        return {name: self._outline(name) for name in self}

    def _outline(self, name: str) -> Tensor:
        if isinstance(self._open(self._files[name]), dict):
            return self.read(name).to("meta")
        view = self.slice_of(name)
        if view.get_dtype() not in _DTYPES:
            raise UserError(
                f"{self._origin}: tensor {name} is {view.get_dtype()}, which is not supported: use another form"
            )
        return torch.empty(view.get_shape(), dtype=_DTYPES[view.get_dtype()], device="meta")


def _of_torch(path: Path) -> dict[str, Tensor]:
    require_content(path)
    content = load_tensors(path)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no named tensors: it is no checkpoint of a model")
    return content
