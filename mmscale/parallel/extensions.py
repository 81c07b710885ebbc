"""C++ operations that DeepSpeed compiles at their first use, without the lock file that a killed build leaves.

torch.utils.cpp_extension waits for ever on such a file. Here the processes of a machine take turns by flock(2),
which ends with its holder, in a folder that nobody else builds in; who has the turn may remove the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from mmscale.errors import UserError
from mmscale.storage.locks import turn

_FOLDER = "TORCH_EXTENSIONS_DIR"


def load_operations(deepspeed: Any, builders: Sequence[str]) -> list[str]:
    """Build, or load as built before, what DeepSpeed will ask for; UserError when the compiler cannot.

    Returns those that DeepSpeed calls incompatible with this machine; they are left out, as DeepSpeed does.
    """
    left_out: list[str] = []
    from deepspeed.accelerator import get_accelerator

    for name in builders:
        builder = get_accelerator().create_op_builder(name)
        if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
            left_out.append(name)
            continue
        folder = build_folder()
        try:
            with _turn(folder), contextlib.redirect_stdout(sys.stderr):  # it tells of its success
                (folder / builder.name / "lock").unlink(missing_ok=True)
                builder.load(verbose=False)
        except (OSError, RuntimeError, ImportError) as error:
            raise UserError(
                f"DeepSpeed's operation {builder.NAME} cannot be built in {folder} ({str(error).splitlines()[0]}): it needs "
                f"g++, ninja and Python's headers, and a folder to write in (set {_FOLDER} to choose another)"
            ) from error
    return left_out


def build_folder() -> Path:
    """For this machine, Python and installed torch alone: the compiler is told to use this machine's processor to the
    full, and ninja builds again whenever another environment's headers are named.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    root = Path(os.environ.get(_FOLDER) or cache / "torch_extensions")
    python, place = ".".join(map(str, sys.version_info[:2])), hashlib.sha256(torch.__file__.encode()).hexdigest()[:8]
    return root / f"mmscale-{platform.node()}-python{python}-torch{torch.__version__}-{place}"


@contextlib.contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Alone among this machine's processes, and with torch building in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get(_FOLDER)
    with turn(folder / "turn"):
        os.environ[_FOLDER] = str(folder)
        try:
            yield
        finally:
            os.environ.pop(_FOLDER)
            if before is not None:
                os.environ[_FOLDER] = before
