"""Rows of the sources: each one counted, in shards of one length, the same however they are shared out."""

from __future__ import annotations

import gzip
import json

import pytest
from datatrove.data import Document

from mmscale.cli.main import main
from mmscale.corpus.rows import CorpusRow, TranslationNote, read_rows, row_of, to_document, write_rows
from mmscale.errors import UserError

ROW = CorpusRow(
    problem="gsm-0",
    source="gsm",
    language="sw",
    question="Je?",
    rationale="Mbili.\n#### 2",
    answer="2",
    origin="a:1",
    source_language="en",
    source_question="?",
    source_rationale="Two.\n#### 2",
    translation=TranslationNote(backend="ctranslate2", model="nllb", passages=3, lost_marks=("7",)),
    notes={"checks": {"digits": 1}},
)


def written(folder, text):
    path = folder / "corpus.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_row_comes_back_from_its_file_and_from_datatroves_reader(tmp_path):
    path = tmp_path / "00000.jsonl.gz"
    assert write_rows(path, [ROW, ROW]) == 2
    assert list(read_rows(path)) == [ROW, ROW]
    assert row_of(to_document(ROW)) == ROW
    line = json.loads(gzip.open(path, "rt", encoding="utf-8").readline())
    there = Document(line["text"], line["id"], metadata={**line["metadata"], "file_path": str(path), "token_count": 3})
    assert row_of(there).notes == {"checks": {"digits": 1}, "token_count": 3}
    before = path.read_bytes()
    write_rows(path, [ROW, ROW])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda raw: raw[:-20], "cannot be read behind line"),
        (lambda raw: gzip.compress(b'{"text": "a", "id": "b", "metadata": {}}\n'), ":1: document 'b' is no row"),
        (lambda raw: gzip.compress(b"[]\n"), ":1 is no row of a corpus"),
        (lambda raw: b"plain", "cannot be read behind line 0"),
    ],
)
def test_a_damaged_shard_is_told(tmp_path, damage, told):
    path = tmp_path / "00000.jsonl.gz"
    write_rows(path, [ROW])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=told):
        list(read_rows(path))


def test_rows_of_a_source_are_read_once_and_counted(tmp_path, capsys):
    data = tmp_path / "rows.jsonl"
    rows = [{"question": f"q{i}", "answer": str(i), "rationale": f"r{i}"} for i in range(5)] + [{"question": "none"}]
    data.write_text("\n".join(map(json.dumps, rows)) + "\n\n", encoding="utf-8")
    config = written(
        tmp_path,
        f"output_dir: {tmp_path}/out\nsources: [{{source: table, path: {data}, max_bad_share: 0.5}}]\nshard_rows: 2\n",
    )
    assert main(["corpus", "read", config]) == 0
    folder = tmp_path / "out" / "rows" / "table"
    made = [row for n in range(3) for row in read_rows(folder / "en" / f"{n:05d}.jsonl.gz")]
    assert [row.id for row in made] == [f"table-{i}.en" for i in range(5)]
    assert made[1] == CorpusRow(
        problem="table-1", source="table", language="en", question="q1", rationale="r1", answer="1", origin=f"{data}:2"
    )
    account = json.loads((folder / "read.json").read_text())
    counted = {key: account[key] for key in ("rows", "read", "bad", "left_out", "shards")}
    assert counted == {"rows": 7, "read": 5, "bad": 1, "left_out": {"empty line": 1}, "shards": 3}
    stamp = (folder / "en" / "00000.jsonl.gz").stat().st_mtime_ns
    assert main(["corpus", "read", config]) == 0
    assert (folder / "en" / "00000.jsonl.gz").stat().st_mtime_ns == stamp
    capsys.readouterr()
    assert main(["corpus", "read", config, "shard_rows=3"]) == 2
    assert "holds rows of other settings of source table" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, told",
    [
        ("sources: [{source: tinyworld, limit: 3, name: a/b}]\n", "sources.0.name: 'a/b' is no name for a folder"),
        ("sources: [{source: tinyworld}, {source: tinyworld}]\n", "two sources are called 'tinyworld'"),
        ("sources: [{source: tinyworld, limit: 3, language: sw}]\n", "questions in sw and rationales in en"),
        ("sources: [{source: tinyworld, options: {form: translation}}]\n", "has ParallelSentence rows"),
        ("sources: [{source: table, path: bare.jsonl}]\n", "1 of 1 rows of source table can't be read"),
        ("sources: [{source: tinyworld, limit: 3}]\nshards: 2\n", "unknown key 'shards'"),
    ],
)
def test_bad_sources_are_told_in_one_sentence(tmp_path, monkeypatch, capsys, text, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.jsonl").write_text('{"question": "How many?"}\n', encoding="utf-8")
    assert main(["corpus", "read", written(tmp_path, f"output_dir: out\n{text}")]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error
