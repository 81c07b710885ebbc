"""Rows read piece by piece are the rows of the whole file, each with its place; what nobody asked for is not parsed."""

from __future__ import annotations

import json
import unicodedata

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.config.data import DataConfig
from mmscale.data import filters, sharing
from mmscale.data.loading import DataReading, load_records
from mmscale.data.records import Problem
from mmscale.data.sharing import Compared, share_of, shared_set, together
from mmscale.data.sources import pieces, rows
from mmscale.data.sources.pieces import Parquet, Shards
from mmscale.data.sources.rows import file_rows, json_rows
from mmscale.storage.reading import line_pieces, numbered_lines

LINE = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=9)


@settings(max_examples=150, deadline=None)
@given(st.lists(LINE), st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 40), st.sets(st.integers(0, 30)))
def test_lines_of_a_piece_are_those_that_begin_in_it(tmp_path_factory, lines, end, ended, size, wanted):
    file = tmp_path_factory.mktemp("lines") / "a.txt"
    file.write_bytes((end.join(lines) + (end if ended else "")).encode())
    expected: dict[int, list[tuple[int, str]]] = {}
    begin = 0
    for (number, text), raw in zip(numbered_lines(file), file.read_bytes().splitlines(keepends=True), strict=False):
        expected.setdefault(begin // size, []).append((number, text))
        begin += len(raw)
    read = {piece: list(of_piece) for piece, of_piece in line_pieces(file, size, wanted.__contains__)}
    assert {piece: rows for piece, rows in read.items() if rows} == {
        piece: rows for piece, rows in expected.items() if piece in wanted
    }


def write_rows(folder, count=60):
    """A file of three languages with rows of every fate."""
    rows = [
        {"lang-id": ("sw", "de", "th")[i % 3], "question": f"Swali {i // 6 % 7}", "answer": f"ndiyo\n#### {i % 5}"}
        for i in range(count)
    ]
    lines = [json.dumps(row) for row in rows]
    lines[7], lines[20], lines[33] = "{", "", json.dumps({"lang-id": "sw", "question": "no answer"})
    (folder / "train.jsonl").write_text("\n".join(lines))
    return str(folder / "train.jsonl")


def read_by(size, config):
    """(records, account) of a data set that so many processes share; each piece is read once."""
    sets = [shared_set(config, ()) for _ in range(size)]
    wanted = []
    for rank, one in enumerate(sets):
        mine = [share_of(rank, size)(base, count) for base, count in enumerate(one.counts)]
        wanted.append(lambda base, number, mine=mine: mine[base](number))
    if isinstance(sets[0], Compared):
        keys = {place[:2]: place[2] for one, own in zip(sets, wanted, strict=True) for place in one.keys(own)}
        for one in sets:
            one.compare(dict(sorted(keys.items())))
    read = [piece for one, own in zip(sets, wanted, strict=True) for piece in one.pieces(own)]
    assert len({(piece.base, piece.number) for piece in read}) == len(read) == sum(sets[0].counts)
    records, account = {code: [] for code in sets[0].languages}, DataReading(config, ()).account()
    for piece in sorted(read, key=lambda piece: (piece.base, piece.number)):
        account.add(piece.account)
        for code, of_language in piece.records.items():
            records[code] += of_language
    return [record for of_language in records.values() for record in of_language], account


def the_answer_is_3(records, source):
    """A filter of which nobody knows how many records it looks at."""
    return {i for i, record in enumerate(records) if record.gold == "3"}


@pytest.mark.parametrize("limit", [None, 5, 12])
@pytest.mark.parametrize("drop", [(), ("not_nfc",), ("duplicate_question", "conflicting_answers"), ("no_gold",)])
def test_processes_read_what_one_reads_and_each_row_has_one_fate(tmp_path, monkeypatch, limit, drop):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300)
    monkeypatch.setattr(sharing, "BLOCK", 7)
    if drop == ("no_gold",):
        monkeypatch.setattr(filters, "get", lambda name: the_answer_is_3)
    config = DataConfig(
        source="mcot_math",
        path=write_rows(tmp_path),
        languages=("sw", "de"),
        max_bad_share=0.5,
        limit_per_language=limit,
        drop=drop,
    )
    expected, told = load_records(config, (), pointing=())
    records, account = read_by(3, config)
    assert records == expected and account == told
    assert drop in ((), ("not_nfc",)) or account.dropped > 0
    for count in account.counts.values():
        assert count.rows == count.read + count.bad + sum(count.left_out.values())
    assert account.kept == len(records) and (limit or account.counts["sw"].rows == 60)


def test_a_process_parses_its_own_rows_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_BYTES", 300)
    parsed, parse = [], rows.parse_json
    config = DataConfig(source="mcot_math", path=write_rows(tmp_path), languages=("sw", "de", "th"), max_bad_share=0.5)
    for rank in range(3):
        one = shared_set(config, ())
        mine = share_of(rank, 3)(0, one.counts[0])
        with monkeypatch.context() as patch:
            patch.setattr(rows, "parse_json", lambda text: parsed.append(text) or parse(text))
            read = list(one.pieces(lambda base, number, mine=mine: mine(number)))
        assert 10 < sum(len(together(piece)) for piece in read) < 30
    assert len(parsed) <= 60 + 9, "beside its own a process looks at the first row, once for each language"


@pytest.mark.parametrize("group", [1, 5, 100])
def test_parquet_shards_are_read_by_row_groups_and_say_where_each_row_is(tmp_path, monkeypatch, group):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 4)
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for file, count in zip(files, (11, 6), strict=True):
        table = pyarrow.table({"question": [f"{file.stem} {i}" for i in range(count)]})
        pyarrow.parquet.write_table(table, file, row_group_size=group)
    whole = [
        (f"{f}:row {i}", {"question": f"{f.stem} {i}"}) for f, n in zip(files, (11, 6), strict=True) for i in range(n)
    ]
    shards = Shards([file_rows(file) for file in files])
    assert list(shards) == whole and shards.count == 3 + 2
    assert {n: list(rows) for n, rows in shards.pieces({1, 2, 4}.__contains__)} == {
        1: whole[4:8],
        2: whole[8:11],
        4: whole[15:17],
    }
    looked_at = []
    read = pyarrow.parquet.ParquetFile.iter_batches
    monkeypatch.setattr(
        pyarrow.parquet.ParquetFile,
        "iter_batches",
        lambda self, size, row_groups: looked_at.append(row_groups[0]) or read(self, size, row_groups=row_groups),
    )
    assert [n for n, _ in Parquet(files[0]).pieces({2}.__contains__)] == [2]
    assert looked_at == {1: [8, 9, 10], 5: [1, 2], 100: [0]}[group]


def test_shards_of_every_form_are_one_after_another(tmp_path, monkeypatch):
    """A JSON array says only at its end how many pieces it has."""
    monkeypatch.setattr(pieces, "PIECE_ROWS", 2)
    (tmp_path / "a.json").write_text(json.dumps([{"n": i} for i in range(5)]))
    (tmp_path / "b.jsonl").write_text('{"n": 5}\n{"n": 6}\n')
    shards = Shards([json_rows(tmp_path / "a.json"), json_rows(tmp_path / "b.jsonl")])
    assert shards.count is None
    assert [(number, [row["n"] for _, row in rows]) for number, rows in shards.pieces(lambda n: n != 1)] == [
        (0, [0, 1]),
        (2, [4]),
        (3, [5, 6]),
    ]
    assert shards.count == 4


RECORDS = st.lists(
    st.builds(
        Problem,
        question=st.sampled_from(["a", "b", "e\u0301", "\u00e9", "c"]),
        language=st.sampled_from(["sw", "fr"]),
        answer=st.sampled_from(["", "1", "2"]),
    ),
    max_size=20,
)


@settings(max_examples=200, deadline=None)
@given(RECORDS)
def test_records_are_compared_by_their_questions_and_answers(records):
    groups: dict[tuple[str, str], list[int]] = {}
    for i, record in enumerate(records):
        groups.setdefault((record.language, unicodedata.normalize("NFC", record.question)), []).append(i)
    again = {i for group in groups.values() for i in group[1:]}
    conflicting = [group for group in groups.values() if len({records[i].answer for i in group} - {""}) > 1]
    assert filters.duplicate_question(records, "") == again
    assert filters.conflicting_answers(records, "") == {i for group in conflicting for i in group}
