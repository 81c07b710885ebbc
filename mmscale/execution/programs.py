"""Where programs stand in texts: an answer's program, and published programs with what they printed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

_FENCE = re.compile(r"^[ \t]*```[ \t]*([A-Za-z0-9_+-]*)[^\n`]*$")
_PYTHON = ("python", "py", "python3")
_OUTPUT = "output"


def fenced(text: str) -> Iterator[tuple[str, str]]:
    """(name behind the fence, lower case; what it holds) of every block between fences; the last may lack its end."""
    name: str | None = None
    lines: list[str] = []
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if fence is None:
            lines.append(line)
            continue
        if name is not None:
            yield name, "\n".join(lines)
            name = None if not fence[1] else fence[1].lower()
        else:
            name = fence[1].lower()
        lines = []
    if name is not None:
        yield name, "\n".join(lines)


def program_of(response: str) -> str | None:
    """The program of an answer: its last block of Python, as ToRA takes it; without any, the last block that is named
    nothing; without fences the whole answer where it is a program (MathInstruct, MAmmoTH). None where there is none.
    """
    blocks = list(fenced(response))
    for names in (_PYTHON, ("",)):
        bodies = [body for name, body in blocks if name in names and body.strip()]
        if bodies:
            return bodies[-1]
    return response if not blocks and looks_like_program(response) else None


def looks_like_program(text: str) -> bool:
    """Whether a text without fences is Python that gives a value: it prints, assigns `ans`, or defines `solution`."""
    if not re.search(r"print\s*\(|^\s*ans\s*=|^\s*def\s+solution\s*\(", text, re.MULTILINE):
        return False
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # cut short or wrong, but meant as one
        return bool(re.match(r"\s*(#|import\s|from\s+\w+\s+import|def\s|[A-Za-z_]\w*\s*=[^=])", text))
    return True


def published(text: str) -> Iterator[tuple[str, str]]:
    """(program, output) of a trajectory: each block of Python that a block of output follows."""
    program: str | None = None
    for name, body in fenced(text):
        if name in _PYTHON:
            program = body
        elif name == _OUTPUT and program is not None:
            yield program, body.strip()
            program = None
