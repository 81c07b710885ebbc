"""Data sets of the Hugging Face hub by path, hf://datasets/OWNER/NAME[@REVISION]: the files that are read, in the local cache."""

from __future__ import annotations

import functools
from pathlib import Path

from mmscale.errors import NotHereYet, UserError

PREFIX = "hf://datasets/"
"""How huggingface_hub itself writes the path of a data set."""


def on_hub(path: str) -> bool:
    return path.startswith(PREFIX)


@functools.lru_cache(maxsize=256)
def local_folder(path: str, files: tuple[str, ...]) -> Path:
    """The folder of a data set's commit in the local cache, those of `files` (shell patterns) in it that the hub has.

    NotHereYet where it cannot be had.
    """
    from huggingface_hub import snapshot_download  # imports slowly

    name, _, revision = path.removeprefix(PREFIX).rstrip("/").partition("@")
    if name.count("/") != 1 or "{" in path:
        raise UserError(f"{path}: a data set of the hub is named {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision or None, allow_patterns=list(files)))
    except (OSError, ValueError) as error:  # no network, permission, unknown name or revision
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NotHereYet(
            f"cannot fetch data set {name} from the hub ({reason:.200}): download it, and give its folder as data.path"
        ) from error
