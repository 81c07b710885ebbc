"""Rows that are appended survive wherever a kill cuts them, whoever appended them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from mmscale.storage.reading import NotJson, parse_json
from mmscale.storage.row_log import RowForm, RowLog, WorkIdentity


@dataclass
class Rank:
    """One of several ranks, each opened and filled in its turn."""

    data_rank: int = 0
    size: int = 1
    tensor_rank: int = 0

    def barrier(self) -> None: ...

    def on_first(self, action: Callable[[], object]) -> None:
        if self.data_rank == self.tensor_rank == 0:
            action()


def parse(line: bytes, origin: str):
    try:
        row = parse_json(line.decode())
    except (NotJson, UnicodeDecodeError):
        return None
    return row if isinstance(row, dict) and set(row) == {"n", "text"} else None


FORM = RowForm(key=lambda row: row["n"], to_json=dict, parse=parse)
ROWS = [{"n": n, "text": text} for n, text in enumerate(("moja", "ha\u0303\u2028ng", "", "สี่"))]


def opened(folder, rank: Rank, work: str | None = "work", alone: bool = True):
    return RowLog(
        folder / "rows.jsonl",
        FORM,
        rank,
        folder / "rows.part-*.jsonl",
        work=WorkIdentity(work) if work else None,
        alone=alone,
    )


@pytest.mark.parametrize("alone", [True, False])
def test_wherever_a_kill_cuts_whole_rows_stay_and_the_others_are_open(tmp_path, alone, capsys):
    log = opened(tmp_path, Rank(), alone=alone)
    log.append(ROWS)
    appended = tmp_path / ("rows.jsonl" if alone else "rows.part-0.jsonl")
    whole = appended.read_bytes()
    for cut in range(len(whole) + 1):
        (tmp_path / "rows.jsonl").unlink(missing_ok=True)
        appended.write_bytes(whole[:cut])
        again = opened(tmp_path, Rank(), alone=alone)
        assert list(again.rows) == list(range(whole[:cut].count(b"\n")))
        again.append(row for row in ROWS if row["n"] not in again.rows)
        again.collect(range(4))
        assert list(again.rows.values()) == ROWS and (tmp_path / "rows.jsonl").read_bytes() == whole
        assert sorted(file.name for file in tmp_path.iterdir()) == ["rows.fingerprint", "rows.jsonl"]
    assert capsys.readouterr().err == "", "a kill is nothing to tell"


def test_ranks_of_any_number_take_up_what_others_left_and_every_row_is_there_once(tmp_path):
    for rank in (Rank(0, 3), Rank(1, 3), Rank(2, 3)):
        opened(tmp_path, rank).append(ROWS[rank.data_rank : rank.data_rank + 2])
    opened(tmp_path, Rank(1, 3, tensor_rank=1)).append(ROWS)  # of a tensor group the first writes
    log = opened(tmp_path, Rank(0, 2))
    assert log.rows == dict(enumerate(ROWS))
    log.append(ROWS[:1])
    log.collect([3, 1, 0, 2])
    assert list(log.rows.values()) == [ROWS[n] for n in (3, 1, 0, 2)]


def test_rows_of_other_work_are_not_kept(tmp_path):
    opened(tmp_path, Rank()).append(ROWS)
    assert opened(tmp_path, Rank()).rows.keys() == {0, 1, 2, 3}
    assert opened(tmp_path, Rank(), work="other").rows == {} and (tmp_path / "rows.jsonl").read_bytes() == b""
