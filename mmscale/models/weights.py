"""The tensors of a Hugging Face checkpoint, read in parts from its safetensors shards: never a whole model in memory."""

from __future__ import annotations

from torch import Tensor

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.errors import UserError
from mmscale.models.loading import found_file
from mmscale.models.tensor_files import FORMS, SAFETENSORS, TensorFiles
from mmscale.parallel.shards import Shard


def checkpoint_files(config: LanguageModelConfig | EncoderConfig) -> TensorFiles:
    """The checkpoint of a configuration, downloaded where it is on the hub, whatever its form."""
    # of the two forms that a hub repository may have, one is enough
    forms = (SAFETENSORS,) if any(found_file(config, name) for name in SAFETENSORS) else FORMS
    return TensorFiles(config.path, lambda name: found_file(config, name), forms)


class SafetensorsWeights:
    """Named tensors of a local folder or hub id; a shard is opened when something in it is wanted."""

    def __init__(self, config: LanguageModelConfig) -> None:
        """Raises UserError where there are no safetensors files."""
        self.config = config
        if not any(found_file(config, name) for name in SAFETENSORS):
            raise UserError(
                f"{config.path} has no {SAFETENSORS[1]} and no {SAFETENSORS[0]}: tensor parallelism reads "
                f"safetensors only: make them once with mmscale convert"
            )
        self._files = checkpoint_files(config)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str, shard: Shard) -> Tensor:
        """A piece of a tensor, in the checkpoint's dtype; UserError when it is missing or of another shape."""
        if name not in self:
            raise UserError(f"{self.config.path} has no tensor {name}: it is not a checkpoint of this architecture")
        view = self._files.slice_of(name)
        if tuple(view.get_shape()) != shard.shape:
            raise UserError(
                f"{self.config.path}: {name} has shape {view.get_shape()}, its configuration says {list(shard.shape)}"
            )
        chosen = slice(shard.begin, shard.begin + shard.size)
        return view[chosen] if shard.dimension == 0 else view[:, chosen]
