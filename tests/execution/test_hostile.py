"""Hostile programs in the sandbox: none gets out, none hangs, none stays, and none changes what the next one gives."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from mmscale.config.execution import ExecutionConfig
from mmscale.execution.outcome import Outcome
from mmscale.execution.pool import Pool
from tests.execution.hostile import ESCAPED, EVERY, KERNEL, NETWORK, PROCESSES, QUICK, SLOW

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="the sandbox is bubblewrap's (package bubblewrap)"
)
WORKERS, SECONDS = 4, 0.5
WORD = "a secret of the host"
CANARY = "import os, math, sympy\nprint(os.listdir('/tmp'), hasattr(math, 'evil'), hasattr(sympy, 'evil'), sympy.sqrt(4) * 21)"
CALM = "[] False False 42\n"


@dataclass
class Host:
    """What a program must not reach."""

    secret: Path
    listener: socket.socket
    abstract: socket.socket
    bystander: subprocess.Popen[bytes]

    def fill(self, code: str) -> str:
        values = {
            "SECRET_WORD": WORD,
            "SECRET": str(self.secret),
            "PORT": str(self.listener.getsockname()[1]),
            "PID": str(self.bystander.pid),
            "SOCKET": str(self.abstract.getsockname()[1:].decode()),
        }
        for name, value in values.items():
            code = code.replace(name, value)
        return code

    def untouched(self) -> bool:
        for end in (self.listener, self.abstract):
            with pytest.raises(BlockingIOError):
                end.accept()
        return self.bystander.poll() is None and self.secret.read_text() == WORD


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    secret = tmp_path_factory.mktemp("host") / "secret-of-the-host.txt"
    secret.write_text(WORD)
    secret.chmod(0o666)
    listener, abstract = socket.socket(), socket.socket(socket.AF_UNIX)
    listener.bind(("127.0.0.1", 0))
    abstract.bind(f"\0mmscale-{os.getpid()}")
    for end in (listener, abstract):
        end.listen()
        end.setblocking(False)
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    os.environ["MMSCALE_TEST_SECRET"] = WORD
    yield Host(secret, listener, abstract, bystander)
    del os.environ["MMSCALE_TEST_SECRET"]
    bystander.kill()
    bystander.wait()
    listener.close()
    abstract.close()


def descendants() -> set[int]:
    return {one.pid for one in psutil.Process().children(recursive=True)}


@pytest.fixture(scope="module")
def outcomes(host):
    """Every program's, with what a harmless program gave behind each; and what stayed behind all of them."""
    before = descendants()
    names = sorted(EVERY, key=lambda name: name in SLOW)
    programs = [program for name in names for program in (host.fill(EVERY[name]), CANARY)]
    began = time.monotonic()
    with Pool(ExecutionConfig(seconds=SECONDS, memory_mib=256, workers=WORKERS)) as pool:
        given = pool.run(programs)
    seconds = time.monotonic() - began
    return dict(zip(names, zip(given[::2], given[1::2]))), seconds, descendants() - before


@pytest.mark.parametrize("name", EVERY)
def test_a_hostile_program_gets_nowhere_and_the_next_one_is_as_ever(outcomes, name):
    outcome, behind = outcomes[0][name]
    assert ESCAPED not in outcome.printed + (outcome.value or ""), outcome
    assert WORD not in outcome.printed
    if name in SLOW:
        assert outcome.failure == "timeout"
    assert behind.value == CALM, behind


def test_there_are_at_least_eighty_and_all_end_in_time(outcomes):
    _, seconds, left = outcomes
    assert len(EVERY) >= 80
    assert not left, "nothing is left running"
    each = 2 * SECONDS + 1
    assert seconds < 60 + len(EVERY) * each  # no hang; the machine may be slow


def test_the_host_is_untouched(outcomes, host):
    assert host.untouched()


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("a program of NUL bytes", "syntax"),
        ("much memory", "memory"),
        ("memory by numpy", "memory"),
        ("loop", "timeout"),
        ("sleep", "timeout"),
        ("fork bomb", "denied"),
        ("thread bomb", "denied"),
        ("connect to the host", "denied"),
        ("write at the root", "denied"),
        ("one large file", "denied"),
        ("huge output", "output"),
        ("end at once", "no value"),
        ("read /etc/passwd", "error: FileNotFoundError"),
        ("follow a null pointer", "error: SIGSEGV"),
    ],
)
def test_failures_have_names(outcomes, name, failure):
    assert outcomes[0][name][0].failure == failure


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_in_any_order_with_any_neighbour_nothing_changes(host, seed):
    """Every program twice, on one sandbox, so that whatever one leaves meets another."""
    names = [*QUICK, *QUICK]
    random.Random(seed).shuffle(names)
    with Pool(ExecutionConfig(seconds=SECONDS, memory_mib=256, workers=1)) as pool:
        given = pool.run([program for name in names for program in (host.fill(EVERY[name]), CANARY)])
    outcomes = dict(zip(names, given[::2], strict=True))
    assert all(one.value == CALM for one in given[1::2])
    assert not any(ESCAPED in one.printed for one in given)
    assert {name: one.failure for name, one in outcomes.items()} == {
        name: one.failure for name, one in zip(names, given[::2], strict=True)
    }
    assert host.untouched() and not {one for one in descendants() if psutil.Process(one).name() == "bwrap"}


FORBIDDEN = {**NETWORK, **PROCESSES, **KERNEL}
FORBIDDEN.pop("become root")  # whoever runs the tests may be root already


def test_without_isolation_the_filters_still_hold(host):
    """A program sees the user's files then, and still gets no process, socket or signal out of the kernel."""
    with Pool(ExecutionConfig(isolation="none", seconds=SECONDS, memory_mib=256, workers=2)) as pool:
        outcomes = dict(zip(FORBIDDEN, pool.run([host.fill(code) for code in FORBIDDEN.values()]), strict=True))
    assert [name for name, one in outcomes.items() if ESCAPED in one.printed + (one.value or "")] == []
    assert host.untouched()


BUSY = """
import sys
from mmscale.config.execution import ExecutionConfig
from mmscale.execution.pool import Pool
pool = Pool(ExecutionConfig(isolation=sys.argv[1], seconds=300, workers=1))
print(pool.run(["print(1)"])[0].value.strip(), flush=True)
pool.run(["while True: pass"])
"""


@pytest.mark.slow
@pytest.mark.parametrize("isolation", ["bubblewrap", "none"])
def test_a_process_that_is_killed_takes_its_sandboxes_with_it(isolation):
    process = subprocess.Popen([sys.executable, "-c", BUSY, isolation], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "1\n"
    time.sleep(0.3)  # the second program runs
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive


def test_a_forged_report_is_the_forgers_own(outcomes):
    given: dict[str, tuple[Outcome, Outcome]] = outcomes[0]
    assert given["forge a report"][0].value == "forged"
    assert all(outcome.value != "forged" for name, (outcome, _) in given.items() if name != "forge a report")
