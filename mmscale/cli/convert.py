"""`mmscale convert`: mapping checkpoints between our format and the MindMerger authors'."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        Path, typer.Argument(help="mapping.safetensors, the authors' pytorch_model.bin, or the folder of one")
    ],
    target: Annotated[Path, typer.Argument(help="file to write: *.safetensors (ours) or *.bin (the authors')")],
) -> None:
    """Convert a mapping checkpoint; both generations of the authors' key names are read.

    Example: `mmscale convert outputs/MindMerger/math/augmentation mapping.safetensors`
    """
    from mmscale.errors import UserError
    from mmscale.files import atomic_write
    from mmscale.models import mapping_files

    mapping = mapping_files.read(source)
    if target.suffix == ".bin":
        mapping_files.write_authors_format(mapping, target)
    elif target.suffix == ".safetensors":
        from safetensors.torch import save

        with atomic_write(target, "wb") as handle:
            handle.write(save({key: value.detach().contiguous() for key, value in mapping.state_dict().items()}))
    else:
        raise UserError(f"{target}: the suffix decides the format: .safetensors or .bin")
    print(
        f"{target}: {mapping.encoder_width} -> {2 * mapping.encoder_width} -> {mapping.llm_width}, {sum(p.numel() for p in mapping.parameters()):,} parameters"
    )
