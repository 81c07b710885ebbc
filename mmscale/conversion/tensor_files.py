"""The named tensors of a checkpoint folder, safetensors or torch's, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from mmscale.errors import UserError
from mmscale.models.loading import load_tensors

_FORMS = ((SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME), (WEIGHTS_INDEX_NAME, WEIGHTS_NAME))
"""(index, single file) in the order of preference."""


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object; UserError when the file holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): download or copy it again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} holds no JSON object: download or copy it again")
    return value


class TensorFiles:
    """A folder in the Hugging Face layout; the file a tensor is in is opened when it is wanted, the last one kept."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where there are no weights, or a shard that the index names is missing."""
        self.folder = folder
        self._name = ""
        self._content: Any = None
        for index, single in _FORMS:
            if (folder / index).is_file():
                self._files: dict[str, str] = read_object(folder / index).get("weight_map", {})
                break
            if (folder / single).is_file():
                self._files = dict.fromkeys(self._names_in(single), single)
                break
        else:
            raise UserError(f"{folder} holds none of {', '.join(name for form in _FORMS for name in form)}")
        for name in sorted(set(self._files.values())):
            if not (folder / name).is_file():
                raise UserError(f"{folder} lacks its shard {name}: download or copy it again")

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors, those of one file together."""
        return iter(sorted(self._files, key=lambda name: (self._files[name], name)))

    def _open(self, name: str) -> Any:
        if name != self._name:
            path = self.folder / name
            if path.suffix == ".safetensors":
                try:
                    self._content = safe_open(path, framework="pt")
                except SafetensorError as error:
                    raise UserError(f"{path} is damaged ({error}): download or copy it again") from error
            else:
                self._content = load_tensors(path)
            self._name = name
        return self._content

    def _names_in(self, file: str) -> list[str]:
        return list(self._open(file).keys())

    def read(self, name: str) -> Tensor:
        content = self._open(self._files[name])
        value = content[name] if isinstance(content, dict) else content.get_tensor(name)
        if not isinstance(value, Tensor):
            raise UserError(f"{self.folder / self._files[name]}: {name} is no tensor but {type(value).__name__}")
        return value
