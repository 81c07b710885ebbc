"""Conversations rendered by a model's own chat template, in a process of its own.

A template is a program that comes with a model's files. Jinja's sandbox, in which transformers runs it, keeps it from files and
commands, but not from an endless loop or all memory of the machine: the process that renders has limits of both.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from mmscale.errors import UserError

SECONDS = 10
"""A conversation may take; real templates take milliseconds."""
_START_SECONDS = 120
"""Until a new process answers: it imports a part of transformers, perhaps from a shared file system."""


class ChatRenderer:
    """A process that renders, started when it is first needed, and again after a template that ended it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        """Process id of who started it: a forked child has pipes of its parent's."""

    def render(self, template: str, turns: list[dict[str, str]], tokens: dict[str, Any]) -> str:
        """The conversation, up to where its answer begins; `tokens` are the tokenizer's special ones. UserError says how a
        template failed."""
        wanted = {"template": template, "turns": turns, "tokens": tokens, "seconds": SECONDS}
        asked = json.dumps(wanted).encode() + b"\n"
        with self._lock:
            fresh = not self._runs()
            if fresh:
                self._start()
            try:
                line = self._exchange(asked, SECONDS + (_START_SECONDS if fresh else 0))
            except BaseException:  # such as Ctrl-C: the answer would come to the next conversation
                self.close()
                raise
        if isinstance(line, str):
            raise UserError(_refused(line))
        answer: dict[str, str] = json.loads(line)
        if "error" in answer:
            raise UserError(_refused(answer["error"]))
        return answer["text"]

    def _runs(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _start(self) -> None:
        quiet = {"PYTHONWARNINGS": "ignore", "PYTHONSAFEPATH": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mmscale.data.chat_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **quiet},
            start_new_session=True,  # a terminal's Ctrl-C is for who asks
        )
        self._owner = os.getpid()

    def _exchange(self, asked: bytes, seconds: float) -> bytes | str:
        """The answer's line; else why there is none, and the process is ended."""
        process, deadline, parts = self._process, time.monotonic() + seconds, [b""]
        assert process is not None and process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(asked)
            process.stdin.flush()
            while not parts[-1].endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    break
                parts.append(os.read(process.stdout.fileno(), 1 << 16))
                if not parts[-1]:
                    break
            else:
                return b"".join(parts)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(1)  # its end may just not be known yet
        code = process.poll()
        self.close()
        late = code is None or code == -signal.SIGALRM
        return (
            f"it takes longer than {SECONDS} s" if late else f"the process that renders it ended with exit code {code}"
        )

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


_RENDERER = ChatRenderer()
atexit.register(_RENDERER.close)


def _refused(said: str) -> str:
    return f"the model's chat template refuses these messages ({said})"


def chat_text(tokenizer: Any, turns: list[dict[str, str]]) -> str:
    """A conversation in the model's own format, up to where its answer begins; UserError where its template fails."""
    from transformers import PreTrainedTokenizerBase

    if getattr(type(tokenizer), "apply_chat_template", None) is PreTrainedTokenizerBase.apply_chat_template:
        tokens = {name: _plain(value) for name, value in tokenizer.special_tokens_map.items()}
        try:
            template = tokenizer.get_chat_template()
        except ValueError as error:  # of several, none is the usual one
            raise UserError(_refused(str(error).splitlines()[0])) from error
        return _RENDERER.render(template, turns, tokens)
    try:  # a format that transformers writes itself, not by a template of the model's files
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(_refused(f"{type(error).__name__}: {said}")) from error


def _plain(value: Any) -> Any:
    return [str(one) for one in value] if isinstance(value, (list, tuple)) else str(value)
