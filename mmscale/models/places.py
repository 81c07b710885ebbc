"""Where the files of a model are."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from mmscale.errors import NotHereYet, UserError

EMBEDDED = "tinyworld:"
"""What stands before the name of an embedded model."""


def resolve_path(path: str) -> str:
    """A path or hub id that transformers understands; `tinyworld:NAME` is an embedded model."""
    if path.startswith(EMBEDDED):
        folder = Path(str(resources.files("mmscale.tinyworld"))) / "artifacts" / path.removeprefix(EMBEDDED)
        if not folder.is_dir():
            have = sorted(p.name for p in folder.parent.glob("*")) if folder.parent.is_dir() else []
            raise UserError(
                f"there is no embedded model '{path}': have {', '.join(have) or 'none; run mmscale tinyworld'}"
            )
        return str(folder)
    expanded = Path(path).expanduser()
    if expanded.is_dir():
        return str(expanded)
    if expanded.is_file():
        raise UserError(f"{path} is a file: name the folder of the model")
    if _looks_local(path, expanded):
        raise NotHereYet(f"model folder not found: {path}; check the path")
    return path


def _looks_local(path: str, expanded: Path) -> bool:
    """Whether a path that is not there cannot be meant for a hub id (NAME or OWNER/NAME)."""
    beside = "/" in path and expanded.parent.is_dir()
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or path.endswith("/") or "\\" in path or beside
