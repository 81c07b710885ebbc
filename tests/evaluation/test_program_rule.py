"""Rule `program`: answers scored by what their programs give, failures counted by name, each program run once."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

import mmscale
from mmscale.cli.main import main
from mmscale.config.execution import ExecutionConfig
from mmscale.config.run import load_run
from mmscale.errors import UserError
from mmscale.evaluation.answers import program, rule
from mmscale.evaluation.solving import require_ready
from mmscale.execution import room as rooms
from mmscale.execution.room import Room
from mmscale.planning.dry_run import dry_run

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="the sandbox is bubblewrap's (package bubblewrap)"
)

ANSWERS = {
    # response: (gold, right, failure)
    "```python\nprint(6 * 3)\n```\n```output\n99\n```\nThe answer is 99.": ("18", True, None),
    "import math\nprint(math.floor(18.7))": ("18", True, None),
    "def solution():\n    return 18.0004": ("#### 18", True, None),
    "```python\nprint('So it costs', 1234.5, 'dollars')\n```": ("1,234.50", True, None),
    "```python\nfrom sympy import Rational\nprint([Rational(3, 4)])\n```": ("0.75", True, None),
    "```python\nprint(-18)\n```": ("18", False, None),
    "```python\nprint(1.8e1)\n```": ("18", True, None),
    "```python\nans = 'B'\n```": ("B", True, None),
    "The answer is 18.": ("18", False, "no program"),
    "```python\nprint(18\n```": ("18", False, "syntax"),
    "```python\nx = 18\n```": ("18", False, "no value"),
    "```python\nprint(18)\nraise KeyError('x')\n```": ("18", False, "error: KeyError"),
    "```python\nimport os\nos.system('true')\nprint(open('/etc/passwd').read())\n```": (
        "18",
        False,
        "error: FileNotFoundError",
    ),
    "```python\nimport socket\nsocket.socket()\n```": ("18", False, "denied"),
}


def test_an_answer_is_what_its_program_gives(tmp_path, capfd):
    chosen = rule("program")
    chosen.ahead(list(ANSWERS))
    for response, (gold, right, failure) in ANSWERS.items():
        assert chosen.correct(response, gold, "en")[1] == right, response
        assert chosen.running.failure(response) == failure, response
    rows = [{"question": "?", "response": text, "answer": gold} for text, (gold, _, _) in ANSWERS.items()]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    assert main(["evaluate", "--predictions", str(file), "--rule", "program", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["n"], found["correct"]) == (len(ANSWERS), 7)
    names = [failure for _, _, failure in ANSWERS.values() if failure]
    assert found["failures"] == {name: names.count(name) for name in names}
    assert mmscale.score(mmscale.read_predictions(file), "program").correct == 7
    assert main(["evaluate", "--predictions", str(file), "--rule", "program", "--isolation", "docker"]) == 2
    assert "isolation" in capfd.readouterr().err


def test_numbers_are_read_as_the_field_reads_them():
    assert program.number("The answer is 1,234,567.5 dollars") == 1234567.5
    assert program.number("[2/3]") == pytest.approx(2 / 3)
    assert program.number("x = -1.5e-3") == -0.0015
    assert not program.equal("", "0") and not program.equal("none", "0")
    assert not program.equal("1/0", "1")


@dataclass
class Ranks:
    """One of several threads that stand for ranks."""

    rank: int
    size: int
    boxes: list[Any]
    barrier: threading.Barrier

    def gather(self, value: Any) -> list[Any]:
        self.boxes[self.rank] = value
        self.barrier.wait(60)
        found = list(self.boxes)
        self.barrier.wait(60)
        return found

    def agree(self, problem: str | None) -> None:
        if any(self.gather(problem)):
            raise UserError(problem or "another rank's")


class Counting(Room):
    """A room that runs nothing, and notes what it would run."""

    def __init__(self) -> None:
        super().__init__(ExecutionConfig())
        self.ran: list[str] = []

    def _learn(self, programs: Sequence[str]) -> None:
        self.ran += [one for one in programs if one not in self._outcomes]
        self._outcomes |= {one: rooms.Outcome(value=f"{one} by {id(self)}") for one in programs}


def test_ranks_share_the_programs_and_hold_the_same_values():
    size, barrier, boxes = 3, threading.Barrier(3), [None] * 3
    held: list[Counting] = [Counting() for _ in range(size)]
    given: list[Any] = [None] * size
    held[1].run(["a", "b"])  # judged when they were answered
    wanted = ["d", "a", "c", "b", "a", "e"]

    def rank(number: int) -> None:
        given[number] = [o.value for o in held[number].run(wanted, Ranks(number, size, boxes, barrier))]

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert given[0] == given[1] == given[2] and len(given[0]) == len(wanted)
    ran = [one for room in held for one in room.ran]
    assert sorted(ran) == ["a", "b", "c", "d", "e"], "each once"


RUN = [
    "configs/quickstart.yaml",
    "methods=[]",
    "evaluation.tasks.tinyworld.rule=program",
    "evaluation.tasks.tinyworld.data.limit_per_language=2",
]


def test_a_run_with_programs_is_refused_before_it_begins_where_nothing_isolates_them(monkeypatch, tmp_path, capsys):
    """Unless the configuration says so; then it warns."""
    monkeypatch.setattr("mmscale.execution.sandbox.shutil.which", lambda name: None)
    monkeypatch.setattr(rooms._Here, "room", Room(ExecutionConfig(seconds=1)))
    assert main(["run", *RUN, f"output_dir={tmp_path / 'run'}"]) == 2
    assert "install the package bubblewrap" in capsys.readouterr().err
    assert not (tmp_path / "run" / "predictions").exists()
    with pytest.raises(UserError, match="install the package bubblewrap"):
        dry_run(load_run(RUN[0], RUN[1:]))
    told: list[str | None] = []
    require_ready("program", SimpleNamespace(agree=told.append))
    require_ready("default", SimpleNamespace())  # asks nobody
    assert "install the package bubblewrap" in told[0], "every rank says it, so that none waits for another"
    dry_run(load_run(RUN[0], [*RUN[1:], "execution.isolation=none"]))
    assert "warning: execution.isolation is none" in capsys.readouterr().err
    rooms.set_up(ExecutionConfig())
