"""The fork server inside a sandbox: a program at a time in a process of its own, all of whose traces are then removed.

It is started as a file, by an interpreter that sees the standard library and a few packages; it imports nothing of mmscale.
In a sandbox it is process 1 of its namespace, which the kernel keeps from its children's signals. Frames on its standard
input and output are four bytes of length (big endian) and a JSON object; a program holds neither of the two.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import importlib
import io
import json
import math
import os
import random
import resource
import select
import signal
import struct
import sys
import time
import traceback
import types
from typing import Any, NoReturn

_REPORT = 3
"""Where a program's process says what came of it."""
_NO_NEW_PRIVILEGES, _END_WITH_PARENT, _DUMPABLE, _SECCOMP, _FILTER, _SUBREAPER = 38, 1, 4, 22, 2, 36
"""PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_SET_CHILD_SUBREAPER (linux/prctl.h)."""
_FORBIDDEN = (errno.EPERM, errno.EACCES, errno.EROFS, errno.ENOSYS)
_TOO_MUCH = (errno.EMFILE, errno.EFBIG, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN)
_MOST_FILES = 64
"""Open at once, by the server or a program."""
_MESSAGE = 1000
_ENTRIES = 1000
"""More files than that are left to a new sandbox."""
_LIBC = ctypes.CDLL(None, use_errno=True)

Reply = dict[str, Any]


class _Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_char_p)]


def main() -> None:
    """Settings, then programs, until standard input ends."""
    settings = _receive()
    if settings is None:
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.closerange(_REPORT, 1 << 12)  # whatever whoever started this left open
    os.open(os.path.dirname(os.path.abspath(__file__)), os.O_RDONLY)  # so that no pipe is ever number 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST_FILES, _MOST_FILES))
    _LIBC.prctl(_END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    _LIBC.prctl(_DUMPABLE, 0, 0, 0, 0)
    _LIBC.prctl(_SUBREAPER, 1, 0, 0, 0)
    for name in settings["imports"]:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    server = ProgramServer(settings)
    server.prove()
    _send({"ready": True})
    while (request := _receive()) is not None:
        _send(server.run(request))


def _receive() -> dict[str, Any] | None:
    header = _exactly(4)
    body = _exactly(struct.unpack(">I", header)[0]) if header else b""
    return json.loads(body) if body else None


def _exactly(size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(0, size - len(parts))
        if not part:
            return b""
        parts += part
    return bytes(parts)


def _send(reply: Reply) -> None:
    body = json.dumps(reply).encode()
    frame = struct.pack(">I", len(body)) + body
    while frame:
        frame = frame[os.write(1, frame) :]


class ProgramServer:
    """Runs programs under the limits of its settings."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.alone = bool(settings["alone"])
        """Whether it is process 1 of a namespace, in which everything else belongs to the program."""
        if self.alone and os.getpid() != 1:
            raise SystemExit("not process 1 of its namespace")
        self.folder = str(settings["folder"])
        self.mode = os.stat(self.folder).st_mode
        self.seconds = float(settings["seconds"])
        self.wall_seconds = float(settings["wall_seconds"])
        self.address_space = int(settings["address_space"])
        self.output_bytes = int(settings["output_bytes"])
        self.file_bytes = int(settings["file_bytes"])
        self.filter = bytes.fromhex(settings["filter"])

    def prove(self) -> None:
        """SystemExit where a program's limits and filter do not hold here, so that none is ever run without them."""
        child = os.fork()
        if child == 0:
            try:
                self._limit()
                os.fork()
            except PermissionError:
                os._exit(0)
            except OSError:
                os._exit(1)
            os._exit(2)
        status = os.waitpid(child, 0)[1]
        if status != 0:
            raise SystemExit("the kernel does not take the limits of a program, or its filter of system calls")

    def run(self, request: dict[str, Any]) -> Reply:
        began = time.monotonic()
        pipes = [os.pipe() for _ in range(3)]  # output, errors, report
        empty = os.pipe()
        child = os.fork()
        if child == 0:
            self._become_program(request["code"], empty[0], [write for _, write in pipes])
        for end in (*empty, *(write for _, write in pipes)):
            os.close(end)
        watch = _Watch([read for read, _ in pipes], self.output_bytes)
        reason = watch.until_end(child, began + self.wall_seconds)
        status, usage = self._remove(child)
        watch.rest()
        reply = _outcome(reason, status, watch, usage.ru_utime + usage.ru_stime >= self.seconds)
        used = usage.ru_utime + usage.ru_stime
        return {"id": request["id"], **reply, "cpu_seconds": used, "clean": self._clean()}

    def _remove(self, child: int) -> tuple[int, resource.struct_rusage]:
        """End the program's process and all that came from it; what the process itself ended with."""
        if self.alone:
            with contextlib.suppress(ProcessLookupError):  # nobody is left
                os.kill(-1, signal.SIGKILL)
        else:
            _kill_each(child)
        _, status, usage = os.wait4(child, 0)
        while True:
            try:
                if os.waitpid(-1, 0 if self.alone else os.WNOHANG)[0] == 0:
                    _kill_each(0)
            except ChildProcessError:
                return status, usage

    def _clean(self) -> bool:
        """Whether the folder that programs write to is as it was at first."""
        try:
            seen = 0
            for folder, names, files in os.walk(self.folder, topdown=False, onerror=_raise):
                seen += len(names) + len(files)
                if seen > _ENTRIES:
                    return False
                for name in files:
                    os.unlink(os.path.join(folder, name))
                for name in names:
                    path = os.path.join(folder, name)
                    os.unlink(path) if os.path.islink(path) else os.rmdir(path)
            return os.stat(self.folder).st_mode == self.mode
        except (OSError, ValueError, RecursionError):
            return False

    def _become_program(self, code: str, stdin: int, ends: list[int]) -> NoReturn:
        """The child: gives up everything of the server's, then runs the program. Never returns."""
        try:
            os.setsid()
            _LIBC.prctl(_END_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
            for place, end in enumerate((stdin, *ends)):  # all of them lie behind the places they are put in
                os.dup2(end, place)
            os.closerange(_REPORT + 1, _MOST_FILES)
            os.chdir(self.folder)
            self._limit()
        except BaseException:  # a program must not run under half of its limits
            os._exit(1)
        _run_program(code)
        os._exit(0)

    def _limit(self) -> None:
        cpu = math.ceil(self.seconds)
        limits = {
            resource.RLIMIT_CPU: (cpu, cpu + 1),
            resource.RLIMIT_AS: (self.address_space, self.address_space),
            resource.RLIMIT_FSIZE: (self.file_bytes, self.file_bytes),
            resource.RLIMIT_NOFILE: (_MOST_FILES, _MOST_FILES),
            resource.RLIMIT_NPROC: (1, 1),
            resource.RLIMIT_CORE: (0, 0),
            resource.RLIMIT_MEMLOCK: (0, 0),
        }
        for which, (soft, hard) in limits.items():
            _, most = resource.getrlimit(which)
            most = hard if most == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(which, (min(soft, most), most))
        program = _Filter(len(self.filter) // 8, self.filter)
        if _LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or _LIBC.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0):
            raise OSError(ctypes.get_errno(), "no seccomp")


def _raise(error: OSError) -> None:
    raise error


def _kill_each(child: int) -> None:
    """Kill one's children, without a namespace that would hold them all."""
    known = {child} if child else set()
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as handle:
            known |= {int(one) for one in handle.read().split()}
    except OSError:
        pass  # no /proc: the child alone is known
    for one in known:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)


class _Watch:
    """The three pipes of a program's process, read until it ends or goes beyond its limits."""

    def __init__(self, ends: list[int], output_bytes: int) -> None:
        self.texts = {end: bytearray() for end in ends}
        self.output, self.errors, self.report = ends
        self.output_bytes = output_bytes
        self.open = set(ends)
        for end in ends:
            os.set_blocking(end, False)

    def until_end(self, child: int, deadline: float) -> str | None:
        """Why the program has to be ended: "timeout", "output"; None where it ended by itself."""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return "timeout"
            if not self.open:
                if _ended(child):
                    return None
                time.sleep(min(left, 0.0005))  # it closed its pipes and runs on
                continue
            ready, _, _ = select.select(list(self.open), [], [], min(left, 0.25))
            for end in ready:
                self._read(end)
            if len(self.texts[self.output]) > self.output_bytes:
                return "output"
            if self.report not in self.open and _ended(child):
                return None

    def rest(self) -> None:
        """What is still in the pipes of a process that is no more."""
        for end in list(self.texts):
            while end in self.open and self._read(end):
                pass
            os.close(end)

    def _read(self, end: int) -> bool:
        """Whether there was something to read."""
        try:
            part = os.read(end, 1 << 16)
        except BlockingIOError:
            return False
        if not part:
            self.open.discard(end)
        text = self.texts[end]
        if end != self.errors and len(text) <= self.output_bytes:
            text += part
        return bool(part)


def _ended(child: int) -> bool:
    """Whether a child has ended; it is left to be waited for."""
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended is not None


def _outcome(reason: str | None, status: int, watch: _Watch, used_up: bool) -> Reply:
    """Value or failure. How the process ended is the kernel's word; the rest is the program's own about itself."""
    printed = bytes(watch.texts[watch.output][: watch.output_bytes]).decode("utf-8", "replace")
    said = _said(bytes(watch.texts[watch.report]))
    reply: Reply = {"printed": printed, "value": None, "failure": None, "message": ""}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if reason is None and number in (signal.SIGXCPU, signal.SIGKILL) and (used_up or number == signal.SIGXCPU):
        reason = "timeout"
    if reason is not None:
        return {**reply, "failure": reason}
    if number:
        # nothing but the kernel kills, and it does so where memory is short
        names = {int(signal.SIGSYS): "denied", int(signal.SIGKILL): "memory"}
        called = next((one.name for one in signal.Signals if one == number), f"signal {number}")
        return {**reply, "failure": names.get(number, f"error: {called}")}
    if said.get("failure"):
        return {**reply, "failure": _text(said["failure"], 80), "message": _text(said.get("message"), _MESSAGE)}
    value = _text(said.get("value"), watch.output_bytes)
    value = value if value.strip() else printed
    return {**reply, "value": value or None, "failure": None if value.strip() else "no value"}


def _text(value: Any, most: int) -> str:
    """What a program says about itself, as text that can be written anywhere."""
    return value[:most].encode("utf-8", "replace").decode() if isinstance(value, str) else ""


def _said(report: bytes) -> dict[str, Any]:
    try:
        value = json.loads(report)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


class _Printed(io.RawIOBase):
    """Standard output that knows whether anything but space was written to it."""

    anything = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 1

    def write(self, data: Any) -> int:
        taken = bytes(data)
        self.anything = self.anything or bool(taken.strip())
        return os.write(1, taken)


def _run_program(code: str) -> None:
    """Run a program as `__main__`, and tell what came of it."""
    printed = _Printed()
    sys.stdin = io.TextIOWrapper(io.FileIO(0), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(printed, 1 << 13), encoding="utf-8", errors="replace")
    sys.stderr = io.TextIOWrapper(io.FileIO(2, "w"), encoding="utf-8", errors="replace", line_buffering=True)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    main = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = main, ["program"]
    try:
        said = _executed(code, main.__dict__, printed)
    except BaseException as error:
        said = _failure(error)
    with contextlib.suppress(BaseException):  # closed by the program, or full
        sys.stdout.flush()
    with contextlib.suppress(BaseException):
        report = json.dumps(said).encode()
        while report:
            report = report[os.write(_REPORT, report) :]


def _executed(code: str, names: dict[str, Any], printed: _Printed) -> Reply:
    try:
        compiled = compile(code, "<program>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:  # ValueError: NUL bytes
        return {"failure": "syntax", "message": _last_line(error)}
    with contextlib.suppress(SystemExit):
        exec(compiled, names)
    with contextlib.suppress(ValueError):  # the program closed it
        sys.stdout.flush()
    if printed.anything:
        return {}
    value = names["solution"]() if callable(names.get("solution")) else names.get("ans")
    return {} if value is None else {"value": str(value)}


def _failure(error: BaseException) -> Reply:
    name = type(error).__name__
    number = error.errno if isinstance(error, OSError) else None
    threads = isinstance(error, RuntimeError) and "start new thread" in str(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        kind = "memory"
    elif isinstance(error, PermissionError) or number in (*_FORBIDDEN, *_TOO_MUCH) or threads:
        kind = "denied"
    else:
        kind = f"error: {name}"
    return {"failure": kind, "message": _last_line(error)}


def _last_line(error: BaseException) -> str:
    """As the interpreter ends its report of the error."""
    lines = "".join(traceback.format_exception_only(type(error), error)).strip().splitlines()
    return lines[-1][:_MESSAGE] if lines else ""


if __name__ == "__main__":
    main()
