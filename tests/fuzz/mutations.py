"""Damage and hostility done to text files: what a slip of the hand, a power failure or an adversary leaves."""

from __future__ import annotations

import os
import re

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("MMSCALE_FUZZ_EXAMPLES", "0"))
"""Examples of each test; without it the few hundred of the fast suite, always the same ones."""


def bounded(examples: int) -> settings:
    return settings(
        max_examples=EXAMPLES or examples,
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


YAML_VALUES = (
    "-1", "0", "0.5", "1" + "0" * 30, "-" + "9" * 20, "9" * 5000, "1e400", ".nan", ".inf", "-.inf", "null", "true", "~", "''",
    "[]", "{}", "[[[]]]", "{a: {b: {c: 1}}}", "[1, x, null]", "'\\0'", '"\\0"', '"\\ud800"', '"\\x07"', "2026-13-01",
    "2026-12-01 99:99:99", "!!python/object:os.system x", "!!binary x", "!!int x", "!!timestamp x", "!!set {a, b}", "&a [*a]",
    "*nowhere", "/", "/dev/zero", "/dev/null", "..", "'a/../../b'", "x" * 5000, "{language}", "{split}", "{", "'{0}'", "%s",
    "\u0007", "\u2028", "\ufeff", "=", "<<", "<<: *x", "0x", "1_000", "1:30:00", "no", "sww", "🙂", "[" * 400, "- ", "? ", "|",
    "extends: tiny.yaml", "extends: .", "!", "@", "`", "\t",
)  # fmt: skip
JSON_VALUES = (
    "-1", "0", "1e999", "NaN", "-Infinity", "9" * 5000, "null", "true", '""', '" "', "[]", "{}", "[[1]]", '{"a": {"b": 1}}',
    '"\\ud800"', '"\\u0000"', '"\\u2028"', '"nan"', '"1,000"', '"sww"', '"Swahili"', '["sw"]', "[" * 3000, '{"a":' * 3000, "'x'",
    '"' + "x" * 3000 + '"', "5", "1.5", '"5 #### "', '"#### 1e5000"',
)  # fmt: skip
FRAGMENTS = (
    "\0", "\0" * 40, "\x07", "\x1b[2J", "\ufeff", "\u2028", "\x85", "\r", "\n", "\n\n", "\t", '"', "'", "{", "}", "[", "]", ":",
    ": ", ",", "\\", "#", "&a", "*a", "|", ">", "%", "<<: ", "---\n", "...\n", "é", "\U0001f642",
)  # fmt: skip
_TOKEN = re.compile(r'"[^"\n]*"|[\w./+-]+')


@st.composite
def damaged(draw: st.DrawFn, text: str, values: tuple[str, ...]) -> bytes:
    """A text with one to three faults."""
    for _ in range(draw(st.integers(1, 3))):
        lines = text.split("\n")
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        kind = draw(
            st.sampled_from(["value", "value", "value", "fragment", "drop", "double", "move", "indent", "cut", "nul"])
        )
        tokens = list(_TOKEN.finditer(text))
        if kind == "value" and tokens:
            found = draw(st.sampled_from(tokens))
            text = text[: found.start()] + draw(st.sampled_from(values)) + text[found.end() :]
        elif kind == "fragment":
            place = draw(st.integers(0, len(text)))
            text = text[:place] + draw(st.sampled_from(FRAGMENTS)) + text[place:]
        elif kind == "drop":
            text = "\n".join(lines[:at] + lines[at + 1 :])
        elif kind == "double":
            text = "\n".join([*lines[: at + 1], *lines[at:]])
        elif kind == "move":
            to = draw(st.integers(0, len(lines)))
            text = "\n".join([*lines[:to], lines[at], *lines[to:]])
        elif kind == "indent":
            text = "\n".join([*lines[:at], "  " + lines[at], *lines[at + 1 :]])
        elif kind == "cut":
            text = text[: draw(st.integers(0, len(text)))]
        else:
            text = "\n".join([*lines[:at], "\0" * max(1, len(lines[at])), *lines[at + 1 :]])
    raw = text.encode()
    if draw(st.integers(0, 9)) == 0 and raw:
        place = draw(st.integers(0, len(raw) - 1))
        raw = raw[:place] + bytes([draw(st.integers(0, 255))]) + raw[place + 1 :]
    return raw
