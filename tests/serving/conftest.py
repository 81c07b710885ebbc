"""A real server process and the official client."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.distributed.ranks import ROOT, environment


@dataclass
class Served:
    """A running `mmscale serve`."""

    process: subprocess.Popen
    url: str
    name: str

    def client(self, **more):
        import openai

        return openai.OpenAI(base_url=self.url, api_key="none", max_retries=0, timeout=120, **more)

    def stop(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60), self.process.stderr.read()


@contextlib.contextmanager
def serving(*options: str, **variables: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "mmscale", "serve", *options, "--port", "0"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**environment(), **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        line = process.stdout.readline()
        found = re.match(r"mmscale serves '(.*)' at (http://\S+/v1)", line)
        assert found, line + process.stderr.read()
        yield Served(process, found[2], found[1])
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[Served]]:
    pytest.importorskip("openai", reason="the server is tested with the official client (extra dev)")
    return serving
