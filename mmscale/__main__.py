"""The command `mmscale`, and `python -m mmscale` for launchers that start modules."""

from __future__ import annotations

import sys
from typing import NoReturn

from mmscale.cli import stopping


def program() -> NoReturn:
    """This process's command line, a signal heard from its first moment on."""
    try:
        stopping.watch()
        from mmscale.cli import main

        main.program()
    except stopping.Stopped as stop:  # while all that is imported
        print(f"mmscale: {stop.sentence}", file=sys.stderr)
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    program()
