"""What became of a program."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A program's value, or the name of its failure."""

    value: str | None = None
    """What it printed; where that is nothing, what `solution()` gave, or `ans`."""
    failure: str | None = None
    """None, syntax, timeout, memory, denied, no value, output (it printed too much), or "error: " and the exception's name."""
    message: str = ""
    """The last line of the interpreter's report, where there was one."""
    printed: str = ""
    """Its standard output, of a program that failed too."""
    seconds: float = 0.0
    """Processor time."""
