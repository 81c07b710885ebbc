"""The tensors of a Hugging Face checkpoint, read in parts from its safetensors shards: never a whole model in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from mmscale.config.model import LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models.loading import resolve_path
from mmscale.parallel.pieces import Piece


class SafetensorsWeights:
    """Named tensors of a local folder or hub id; a shard is opened when something in it is wanted."""

    def __init__(self, config: LanguageModelConfig) -> None:
        """Raises UserError where there are no safetensors files."""
        self.config, self._path = config, resolve_path(config.path)
        self._open: dict[str, Any] = {}
        index = self._file(SAFE_WEIGHTS_INDEX_NAME)
        if index is not None:
            self._shards: dict[str, str] = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"]
        elif self._file(SAFE_WEIGHTS_NAME) is not None:
            self._shards = dict.fromkeys(self._shard(SAFE_WEIGHTS_NAME).keys(), SAFE_WEIGHTS_NAME)
        else:
            raise UserError(
                f"{config.path} has no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}: tensor parallelism reads "
                f"safetensors only: make them once with mmscale convert"
            )

    def _file(self, name: str) -> str | None:
        found = cached_file(
            self._path,
            name,
            revision=self.config.revision,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return str(found) if found is not None else None

    def _shard(self, name: str) -> Any:
        if name not in self._open:
            path = self._file(name)
            if path is None:
                raise UserError(f"{self.config.path} lacks its shard {name}: download or copy it again")
            try:
                self._open[name] = safe_open(path, framework="pt")
            except (SafetensorError, OSError) as error:
                raise UserError(f"{path} is damaged ({error}): download or copy it again") from error
        return self._open[name]

    def __contains__(self, name: str) -> bool:
        return name in self._shards

    def read(self, name: str, piece: Piece) -> Tensor:
        """A piece of a tensor, in the checkpoint's dtype; UserError when it is missing or of another shape."""
        if name not in self:
            raise UserError(f"{self.config.path} has no tensor {name}: it is not a checkpoint of this architecture")
        view = self._shard(self._shards[name]).get_slice(name)
        if tuple(view.get_shape()) != piece.shape:
            raise UserError(
                f"{self.config.path}: {name} has shape {view.get_shape()}, its configuration says {list(piece.shape)}"
            )
        chosen = slice(piece.begin, piece.begin + piece.size)
        return view[chosen] if piece.dimension == 0 else view[:, chosen]
