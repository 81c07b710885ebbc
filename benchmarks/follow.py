"""Files of mmscale in the order in which a command enters functions of theirs: mmscale bench follow

docs/architecture.md has the ways of one training example, one proxy-decoded token and one resume. Example:

    mmscale bench follow --until CausalObjective.loss_sum train configs/quickstart.yaml mindmerger.mapping
"""

from __future__ import annotations

import argparse
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import mmscale_kernels

import mmscale
from mmscale.cli.main import main as run_command

ROOTS = [Path(package.__path__[0]).resolve().parent for package in (mmscale, mmscale_kernels)]
_OPTIMIZED = 1
"""Flag of the code of functions; modules and class bodies, which an import runs, lack it."""


class FollowedWay:
    """What is entered between two functions, by qualified name; None is the command's begin or end."""

    def __init__(self, since: str | None, until: str | None) -> None:
        self.files: list[str] = []
        self.since, self.until, self.ended = since, until, False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        file = None if event != "call" or self.ended else _file(frame.f_code)
        if file is None:
            return
        name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)
        if self.since is not None and name != self.since:
            return
        self.since = None
        if file not in self.files:
            self.files.append(file)
        self.ended = name == self.until


def _file(code: CodeType) -> str | None:
    """A function's file, from its package on; None for code of others."""
    if not code.co_flags & _OPTIMIZED:
        return None
    for root in ROOTS:
        if code.co_filename.startswith(f"{root}/mmscale"):
            return code.co_filename[len(str(root)) + 1 :]
    return None


def main() -> int:
    parser = argparse.ArgumentParser(prog="mmscale bench follow", description=__doc__.splitlines()[0])
    parser.add_argument("--since", help="begin with this function, for example Trainer.run")
    parser.add_argument("--until", help="end with this function")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what follows `mmscale`")
    options = parser.parse_args()
    way = FollowedWay(options.since, options.until)
    sys.setprofile(way)
    threading.setprofile(way)
    try:
        code = run_command(options.command)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    print("\n".join([*way.files, f"{len(way.files)} files"]))
    return code


if __name__ == "__main__":
    sys.exit(main())
