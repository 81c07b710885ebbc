"""`python -m mmscale`: for launchers that start modules."""

from __future__ import annotations

from mmscale.cli.main import program

if __name__ == "__main__":
    program()
