"""Renders chat templates within limits of time and memory: python -m mmscale.data.chat_worker

A line of JSON on standard input asks for a conversation, a line of JSON on standard output answers. It ends with its input, or
with a request that takes too long.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any

MEMORY = 2**30
"""Bytes of address space beyond what the process has before its first request."""
LONGEST = 2**24
"""Characters of a conversation."""


def main() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what else is printed is no answer
    _limit_memory()
    for line in sys.stdin:
        asked = json.loads(line)
        signal.alarm(asked["seconds"])  # also where nobody is left to end this process
        answer = _answer(render_jinja_template, asked)
        signal.alarm(0)
        print(json.dumps(answer), file=answers, flush=True)


def _limit_memory() -> None:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux, where address space is not counted like this
        return
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = used + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _answer(render: Any, asked: dict[str, Any]) -> dict[str, str]:
    try:
        text: str = render(
            [asked["turns"]], chat_template=asked["template"], add_generation_prompt=True, **asked["tokens"]
        )[0][0]
        if len(text) > LONGEST:
            return {"error": f"ValueError: {len(text)} characters, more than {LONGEST}"}
        return {"text": text}
    except MemoryError:
        return {"error": f"MemoryError: more than {MEMORY // 2**20} MiB"}
    except Exception as error:  # a template is a program: it fails in any way it likes
        said = (str(error).strip().splitlines() or [""])[0]
        return {"error": f"{type(error).__name__}: {said}"}


if __name__ == "__main__":
    main()
