"""What a program gives: its value, the names of its failures, the same one every time; published programs as published."""

from __future__ import annotations

import _thread
import json
import os
import re
import shutil
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.programs import cases, measure
from mmscale.cli.main import main
from mmscale.config.execution import ExecutionConfig
from mmscale.errors import UserError
from mmscale.execution import seccomp
from mmscale.execution.pool import Pool, why_not
from mmscale.execution.programs import program_of, published
from mmscale.execution.sandbox import Sandbox

isolated = pytest.mark.skipif(shutil.which("bwrap") is None, reason="the sandbox is bubblewrap's (package bubblewrap)")

VALUES = {
    # program: (value, failure)
    "print(3 * 4)": ("12\n", None),
    "print(); print('  ')\nans = 7": ("7", None),
    "ans = 7 / 2": ("3.5", None),
    "def solution():\n    return 5": ("5", None),
    "ans = 1\ndef solution():\n    return 2": ("2", None),
    "def solution():\n    return 5\nprint(solution() + 1)": ("6\n", None),
    "def solution():\n    print(8)": ("8\n", None),
    "if __name__ == '__main__':\n    print('main')": ("main\n", None),
    "from sympy import Rational, sqrt\nprint(Rational(1, 3) + 1, sqrt(8))": ("4/3 2*sqrt(2)\n", None),
    "import numpy as np\nprint(np.arange(3).sum())": ("3\n", None),
    "print(1)\nexit()": ("1\n", None),
    "print({'b', 'a', 'c', 'd'})": (None, None),  # whatever it is, twice the same
    "import random, numpy\nprint(random.random(), numpy.random.rand())": (None, None),
    "with open('x', 'w') as f: f.write('9')\nprint(open('x').read())": ("9\n", None),
    "x = 1": (None, "no value"),
    "x = ": (None, "syntax"),
    "print(1)\nraise ValueError('no')": (None, "error: ValueError"),
    "x = [0] * 10**12": (None, "memory"),
    "while True: pass": (None, "timeout"),
    "import os\nos.fork()": (None, "denied"),
    "raise KeyboardInterrupt": (None, "error: KeyboardInterrupt"),
}


@pytest.mark.parametrize("isolation", [pytest.param("bubblewrap", marks=isolated), "none"])
def test_values_and_failures(isolation, capfd):
    """Without isolation as well, though there a program sees every file of the user's."""
    twice = [program for program, given in VALUES.items() if given == (None, None)]
    with Pool(ExecutionConfig(isolation=isolation, seconds=0.5, memory_mib=512, workers=1)) as pool:
        given = pool.run([*VALUES, *twice])
    outcomes = dict(zip(VALUES, given, strict=False))
    for program, (value, failure) in VALUES.items():
        assert outcomes[program].failure == failure, (program, outcomes[program])
        assert value is None or outcomes[program].value == value, program
    assert [outcomes[program].value for program in twice] == [outcome.value for outcome in given[len(VALUES) :]]
    assert ("warning: execution.isolation is none" in capfd.readouterr().err) == (isolation == "none")


def test_without_bubblewrap_programs_are_refused_in_a_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"install the package bubblewrap, or, .* set execution.isolation: none"),
        Pool(ExecutionConfig()) as pool,
    ):
        pool.run(["print(1)"])
    assert "bubblewrap" in str(why_not())
    assert main(["doctor", "--json"]) == 0
    assert "install the package bubblewrap" in json.loads(capsys.readouterr().out)["programs"]


@isolated
def test_a_batch_that_is_broken_off_leaves_no_work_behind(monkeypatch):
    """As Ctrl-C breaks it off: what was not begun is not run."""
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Pool(ExecutionConfig(seconds=1, workers=1)) as pool:
        pool.run(["print(1)"])
        stopped = threading.Timer(0.5, _thread.interrupt_main)
        stopped.start()
        pool.run(["import time\ntime.sleep(0.2)"] * 1000)
    assert time.monotonic() - began < 100  # of 200 seconds, started and slow as this machine may be


def test_where_bubblewrap_cannot_make_a_sandbox_its_words_are_told(monkeypatch, tmp_path):
    fake = tmp_path / "bwrap"
    fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "No permissions to create new namespace" in str(why_not())


def test_the_program_of_an_answer():
    assert program_of("Text\n```python\nx = 1\n```\nthen\n```python\nprint(2)\n```\n```output\n2\n```") == "print(2)"
    assert program_of("```\nprint(1)\n```") == "print(1)"
    assert program_of("```python\nprint(1)\n") == "print(1)\n"  # cut short
    assert program_of("import math\nprint(math.pi)") == "import math\nprint(math.pi)"
    assert program_of("def solution():\n    return 1\n") is not None
    assert program_of("x = 1 +\nprint(x") is not None  # no Python, but meant as some
    assert program_of("The answer is 5.") is None
    assert program_of("We print (loudly) the answer: 5.") is None
    assert list(published("```python\na\n```\n```output\n1\n```\nso\n```python\nb\n```\n```output\n\n2 \n```")) == [
        ("a", "1"),
        ("b", "2"),
    ]


HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_of_system_calls_are_the_kernels(machine):
    """As its own headers tell them; each processor has a filter, others have none."""
    assert seccomp.sandbox_filter(machine) and seccomp.program_filter(machine)
    assert seccomp.program_filter("riscv64") is None
    header = Path(HEADERS[machine])
    if not header.is_file():
        pytest.skip(f"the kernel's headers are not at {header}")
    numbers = dict(re.findall(r"#define __NR(?:3264)?_?(\w+)\s+(\d+)", header.read_text()))
    wrong = {}
    for name, of_machines in seccomp._NUMBERS.items():
        ours = of_machines[list(seccomp.ARCHITECTURES).index(machine)]
        theirs = numbers.get(name)
        if (None if theirs is None else int(theirs)) != ours:
            wrong[name] = (ours, theirs)
    assert not wrong


def bench(capfd, *words: str) -> dict:
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["bench", "programs", *words, "--json"]))
    said = capfd.readouterr()
    assert ended.value.code == 0, said.err
    return json.loads(said.out)


@isolated
def test_published_trajectories_give_what_was_published(public_data, capfd, tmp_path):
    """All blocks but one, whose program fails: `f(f(f(2)))` of an `f` without parameters never gave the 4 that is written
    behind it."""
    found = bench(capfd, "--file", str(public_data / "tora" / "examples.jsonl"))
    assert (found["n"], found["equal"], found["failures"]) == (25, 24, {"error: TypeError": 1})
    assert found["unequal"][0]["published"] == "4" and found["isolation"] == "bubblewrap"
    rows = (public_data / "tora" / "data" / "gsm-hard_test.jsonl").read_text(encoding="utf-8").splitlines()
    few = tmp_path / "few.jsonl"
    wrong = json.dumps({"code": "def solution(): return 1", "target": 2.0})
    few.write_text("\n".join([*rows[:40], wrong]), encoding="utf-8")
    found = measure(few, ExecutionConfig())
    assert (found["n"], found["equal"]) == (41, 40)
    assert found["unequal"] == [{"at": "few.jsonl:41", "published": "2.0", "value": "1"}]


@isolated
@pytest.mark.slow
def test_every_program_of_gsm_hard_gives_its_target(public_data, capfd):
    """No published target is wrong: 89 of 1319 are rounded to ten decimals."""
    found = bench(capfd, "--file", str(public_data / "tora" / "data" / "gsm-hard_test.jsonl"))
    assert (found["n"], found["equal"], found["failures"], found["unequal"]) == (1319, 1319, {}, [])


@isolated
def test_a_trajectory_that_failed_or_printed_nothing_or_much_is_compared_as_published(tmp_path):
    """In the words of ToRA's executor: the last line of the report, "Done", 400 characters."""
    texts = {
        "print(undefined)": "NameError: name 'undefined' is not defined",
        "x = = 1": "SyntaxError: invalid syntax",
        "x = 1": "Done",
        "print('a' * 500)": "a" * 200 + "..." + "a" * 200,
        "while True: pass": "timeout_decorator.timeout_decorator.TimeoutError: 'Timed Out'",
    }
    rows = [
        {"code": [f"```python\n{code}\n```\n```output\n{output}\n```\nSo it is."]} for code, output in texts.items()
    ]
    file = tmp_path / "trajectories.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    found = measure(file, ExecutionConfig(seconds=0.5, workers=1))
    assert found["unequal"] == [] and found["n"] == len(texts)
    assert found["failures"] == {"error: NameError": 1, "syntax": 1, "timeout": 1}


def test_a_file_without_programs_is_refused_in_a_sentence(tmp_path):
    file = tmp_path / "none.jsonl"
    file.write_text('{"question": "1 + 1?"}\n')
    with pytest.raises(UserError, match="has no programs: rows need code and target"):
        list(cases(file))


@pytest.mark.parametrize("isolation", [pytest.param("bubblewrap", marks=isolated), "none"])
def test_no_program_is_run_where_its_filter_does_not_hold(monkeypatch, isolation):
    """As under a kernel without seccomp: one that allows everything stands for it."""
    allow_all = bytes.fromhex("06000000" + "0000ff7f")
    monkeypatch.setattr("mmscale.execution.sandbox.program_filter", lambda: allow_all)
    with (
        pytest.raises(UserError, match="does not take the limits of a program, or its filter"),
        Pool(ExecutionConfig(isolation=isolation, workers=1)) as pool,
    ):
        pool.run(["print(1)"])


def test_packages_of_an_environment_below_the_folder_to_write_to_are_there():
    """That folder, empty, would stand over them."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        (Path(folder) / "beside.py").write_text("VALUE = 7\n")
        sandbox = Sandbox(ExecutionConfig(), packages=False)
        shown = sandbox.interpreter
        sandbox.interpreter = replace(shown, packages=(*shown.packages, f"{folder}/beside.py"))
        try:
            seen = sandbox.run("import beside, os, sympy\nprint(beside.VALUE, os.listdir('/tmp'))")
        finally:
            sandbox.stop()
    assert seen.printed == "7 []\n", seen
