"""One sandbox: bubblewrap around a fork server, or the server alone where the user asked for no isolation."""

from __future__ import annotations

import json
import os
import select
import shutil
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmscale.config.execution import ExecutionConfig
from mmscale.errors import UserError
from mmscale.execution import server
from mmscale.execution.interpreter import PRELOADED, STANDARD, Interpreter, interpreter
from mmscale.execution.outcome import Outcome
from mmscale.execution.seccomp import program_filter, sandbox_filter

_FOLDER, _SERVER = "/tmp", "/server.py"
_PACKAGES = "/packages"
_FILES = 16 << 20
"""Bytes of all files that a program may write."""
_OUTPUT = 256 << 10
"""Bytes that a program may print."""
_FRAME = 8 << 20
"""No reply of a server is longer."""
_SLOW_TO_IMPORT = ("numpy", "sympy", "mpmath", "scipy")
_START_SECONDS = 120
_GRACE_SECONDS = 10
"""Beyond a program's own time, until its server is given up."""


def uses_packages(code: str) -> bool:
    """Whether a program names a package that is imported for all; one that hides the name imports it by itself."""
    return any(name in code for name in _SLOW_TO_IMPORT)


class SandboxLost(Exception):
    """The server ended, or said nothing in time, or something that is no reply."""


def bubblewrap() -> str:
    """The program bwrap; UserError where it is missing."""
    path = shutil.which("bwrap")
    if path is None:
        raise UserError(
            "programs of a model run in a sandbox of bubblewrap (bwrap), which is not installed: install the package bubblewrap, or, where "
            "you trust the programs with all that is yours, set execution.isolation: none"
        )
    return path


class Sandbox:
    """A server that runs programs, one at a time; it is started anew where a program damaged it."""

    def __init__(self, config: ExecutionConfig, packages: bool = True) -> None:
        """With `packages`, numpy and sympy are imported once for all its programs."""
        self.config, self.packages = config, packages
        self.interpreter = interpreter()
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._number = 0
        self._filter = program_filter()
        if self._filter is None:
            raise UserError(
                f"programs cannot be run on this processor ({os.uname().machine}): its system calls are not known here"
            )

    def start(self) -> None:
        """UserError where no sandbox can be made."""
        alone = self.config.isolation != "none"
        self._scratch = (
            None if alone else tempfile.TemporaryDirectory(prefix="mmscale-program-", ignore_cleanup_errors=True)
        )
        errors = tempfile.TemporaryFile()
        rules = os.memfd_create("seccomp")
        try:
            os.write(rules, sandbox_filter() or b"")
            os.lseek(rules, 0, os.SEEK_SET)
            here = [self.interpreter.executable, "-s", "-B", str(Path(server.__file__).resolve())]
            command = _isolated(self.interpreter, rules) if alone else here
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self.interpreter.environment,
                pass_fds=[rules] if alone else [],
                start_new_session=True,
            )
            self._send(self._settings(alone))
            if self._receive(_START_SECONDS) != {"ready": True}:
                raise SandboxLost("no greeting")
        except (SandboxLost, OSError) as error:
            self.stop()
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            raise UserError(_refusal(said[-1] if said else str(error), alone)) from error
        finally:
            os.close(rules)
            errors.close()

    def _settings(self, alone: bool) -> dict[str, Any]:
        assert self._filter is not None
        return {
            "alone": alone,
            "folder": _FOLDER if self._scratch is None else self._scratch.name,
            "seconds": self.config.seconds,
            "wall_seconds": self._wall_seconds,
            "address_space": self.interpreter.size + (self.config.memory_mib << 20),
            "output_bytes": _OUTPUT,
            "file_bytes": _FILES,
            "filter": self._filter.hex(),
            "imports": (*STANDARD, *(PRELOADED if self.packages else ())),
        }

    @property
    def _wall_seconds(self) -> float:
        """By the clock a program may take longer: other programs and other people use the processors too."""
        return 2 * self.config.seconds + 1

    def run(self, code: str) -> Outcome:
        """What a program gives. A server that it takes down with it is replaced before the next one."""
        if self._process is None:
            self.start()
        self._number += 1
        try:
            self._send({"id": self._number, "code": code.encode("utf-8", "replace").decode()})
            reply = self._receive(self._wall_seconds + _GRACE_SECONDS)
            outcome = _outcome(reply, self._number)
        except (SandboxLost, OSError) as error:
            self.stop()
            return Outcome(failure="timeout" if str(error) == _SILENT else "memory", message="its sandbox was ended")
        if reply.get("clean") is not True:
            self.stop()
        return outcome

    def stop(self) -> None:
        """End the server, and with it everything in its namespace."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except OSError:  # a request that nobody read any more
                    continue
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _send(self, value: Mapping[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        body = json.dumps(value).encode()
        self._process.stdin.write(struct.pack(">I", len(body)) + body)
        self._process.stdin.flush()

    def _receive(self, seconds: float) -> dict[str, Any]:
        """The next frame; SandboxLost where there is none in time."""
        deadline = time.monotonic() + seconds
        (size,) = struct.unpack(">I", self._exactly(4, deadline))
        if size > _FRAME:
            raise SandboxLost("a reply that is too long")
        try:
            value = json.loads(self._exactly(size, deadline))
        except ValueError as error:
            raise SandboxLost("no JSON") from error
        if not isinstance(value, dict):
            raise SandboxLost("no object")
        return value

    def _exactly(self, size: int, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        end, parts = self._process.stdout.fileno(), bytearray()
        while len(parts) < size:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([end], [], [], left)[0]:
                raise SandboxLost(_SILENT)
            part = os.read(end, size - len(parts))
            if not part:
                raise SandboxLost("ended")
            parts += part
        return bytes(parts)


_SILENT = "no reply in time"


def _outcome(reply: Mapping[str, Any], number: int) -> Outcome:
    """A reply read with care: the server is ours, but it lived beside the program."""
    texts = {key: reply.get(key) for key in ("value", "failure", "message", "printed")}
    if reply.get("id") != number or not all(isinstance(text, (str, type(None))) for text in texts.values()):
        raise SandboxLost("a reply to something else")
    return Outcome(
        value=None if texts["failure"] else texts["value"],
        failure=texts["failure"],
        message=texts["message"] or "",
        printed=texts["printed"] or "",
        seconds=float(reply.get("cpu_seconds", 0.0)),
    )


def _isolated(shown: Interpreter, rules: int) -> list[str]:
    """bwrap's command line: new namespaces, the interpreter read-only, a small empty folder to write to, nothing else."""
    command = [bubblewrap(), "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    command += ["--uid", "65534", "--gid", "65534", "--hostname", "sandbox"]
    for path in shown.shown:
        command += ["--ro-bind", path, path]
    for path in shown.hidden:
        command += ["--tmpfs", path]
    for path in shown.packages:
        command += ["--ro-bind", path, _inside(path)]
    for path in shown.hidden:
        command += ["--remount-ro", path]
    for place, target in shown.links:
        command += ["--symlink", target, place]
    command += ["--ro-bind", str(Path(server.__file__).resolve()), _SERVER]
    command += _writable()
    folders = dict.fromkeys(_inside(str(Path(path).parent)) for path in shown.packages)
    command += ["--setenv", "PYTHONPATH", ":".join(folders)]
    command += ["--remount-ro", "/", "--chdir", _FOLDER, "--seccomp", str(rules)]
    return [*command, "--", shown.executable, "-s", "-B", _SERVER]


def _inside(path: str) -> str:
    """Where a sandbox shows a package: at its own path, unless the folder to write to would cover that."""
    return f"{_PACKAGES}{path}" if path.startswith(f"{_FOLDER}/") else path


def _writable() -> list[str]:
    """A folder of bounded size; where bwrap is too old to bound it, one that cannot be written to."""
    sized = "--size" in subprocess.run([bubblewrap(), "--help"], capture_output=True, text=True, check=False).stdout
    if sized:
        return ["--size", str(_FILES), "--tmpfs", _FOLDER]
    return ["--tmpfs", _FOLDER, "--remount-ro", _FOLDER]


def _refusal(said: str, alone: bool) -> str:
    if not alone:
        return f"programs cannot be run here ({said:.200}): see mmscale doctor"
    return (
        f"bubblewrap cannot isolate programs here ({said:.200}): allow user namespaces to your account, or, where you trust the programs with all "
        f"that is yours, set execution.isolation: none"
    )
