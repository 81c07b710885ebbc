"""Text from outside: what is no usable JSON or YAML, or no readable file, is one sentence with file and line."""

from __future__ import annotations

import json
import os

import pytest

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.errors import UserError
from mmscale.storage.reading import NotJson, numbered_lines, parse_json, parse_yaml, read_json_object

MINIMAL = "name: x\nlanguage_model: {path: y}\n"


@pytest.mark.parametrize(
    "text,line,problem",
    [
        ("a: 1\nb: \x07\n", 2, "control character U+0007"),
        ("a: 1\nb: \x00\n", 2, "control character U+0000"),
        ("a: 1\nb: " + "9" * 5000, 2, "a number of thousands of digits"),
        ("a: 1\nb: !!timestamp x", 2, "a value of another kind"),
        ("a: 1\nb: !!int x", 2, "a value of another kind"),
        ('a: 1\nb: "\\ud800"', 2, "half of a surrogate pair"),
        ('a: 1\nb: "\\0"', 2, "a NUL"),
        ("a: 1\nb: &b [*b]", 2, "an alias inside of what it stands for"),
        ("a: 1\nb: " + "[" * 5000, 2, "nested too deep"),
        ("a: 1\nb: " + "[" * 150 + "]" * 150, 2, "nested too deep"),
        ("a: 1\nb: 2\na: 3\n", 3, "key 'a' stands here a second time"),
        ("a: 1\nb: !!python/object/apply:os.system [x]", 2, "could not determine a constructor"),
        ("a: 1\nb: {c: 1\n", 3, "expected ',' or '}'"),
    ],
)
def test_yaml_that_is_none_is_told_with_its_line(text, line, problem):
    with pytest.raises(UserError) as error:
        parse_yaml(text, "file.yaml")
    assert str(error.value).startswith(f"file.yaml:{line}: not valid YAML:") and problem in str(error.value)


def test_aliases_that_would_fill_the_memory_are_refused():
    text = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    with pytest.raises(UserError, match=r"x.yaml:\d+: .*aliases that stand for more than 100000 values"):
        parse_yaml(text, "x.yaml")
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, b: 2}\nd: *a\n", "x")["c"] == {"b": 2}


def test_dates_are_text(tmp_path):
    assert parse_yaml("a: 2026-13-01\nb: 2026-12-01\n", "x") == {"a": "2026-13-01", "b": "2026-12-01"}


@pytest.mark.parametrize(
    "files,message",
    [
        ({"a.yaml": "extends: a.yaml\n"}, "a.yaml: extends: a.yaml leads back to a.yaml itself"),
        (
            {"a.yaml": "extends: b.yaml\n", "b.yaml": "extends: a.yaml\n"},
            "b.yaml: extends: a.yaml leads back to a.yaml",
        ),
        ({"a.yaml": "extends: [a]\n"}, "extends: ['a'] is not the name of a file"),
        ({"a.yaml": "extends: .\n"}, "is not a file"),
        ({"a.yaml": f"extends: {'x' * 5000}\n"}, "File name too long"),
        ({"a.yaml": MINIMAL + "seed: -1\n"}, "seed: input should be greater than or equal to 0"),
        ({"a.yaml": MINIMAL + f"threads: {10**30}\n"}, "threads is a number of more than 64 bits"),
        ({"a.yaml": MINIMAL + "threads: .nan\n"}, "threads: input should be a finite number"),
    ],
)
def test_configurations_that_cannot_be_are_one_sentence(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        load_run(str(tmp_path / "a.yaml"))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text,line,reason",
    [
        ('{"a": 1}\n{', 2, "not valid JSON"),
        ("[1,\n" + "[" * 100_000, 2, "nested too deep"),
        ('{"a":\n' + "9" * 5000 + "}", 2, "thousands of digits"),
        ('{"a": "x",\n"b": "\\ud83d"}', 2, "half of a surrogate pair"),
        ('{"a": "\\udE00"}', 1, "half of a surrogate pair"),
        ('{"answer": "5",\n"answer": "6"}', 2, "the key 'answer' twice"),
    ],
)
def test_json_that_no_program_could_use_is_told_with_its_line(text, line, reason):
    with pytest.raises(NotJson, match=reason) as error:
        parse_json(text)
    assert error.value.line == line


def test_whole_surrogate_pairs_and_escaped_backslashes_are_text():
    assert parse_json('"\\ud83d\\ude00"') == "😀" and parse_json('"\\\\ud83d"') == "\\ud83d"


def test_files_that_are_none_are_one_sentence(tmp_path, capsys, monkeypatch):
    os.mkfifo(tmp_path / "fifo.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in (tmp_path / "fifo.yaml", tmp_path / "folder.yaml", "/dev/zero", "x" * 5000):
        assert main(["run", str(name)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and ("is not a file" in error or "File name too long" in error)
    assert main(["evaluate", "--predictions", str(tmp_path / "fifo.yaml")]) == 2
    file = tmp_path / "closed.jsonl"
    file.write_text("{}\n")

    def closed(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", closed)
    with pytest.raises(
        UserError, match="cannot read .*closed.jsonl: Permission denied; check its path and permissions"
    ):
        list(numbered_lines(file))


def test_json_files_say_what_to_do(tmp_path):
    file = tmp_path / "scores.json"
    file.write_text('{"a": 1,\n  oops}')
    with pytest.raises(UserError, match=r"scores.json:2 is not valid JSON .*: make it again"):
        read_json_object(file, "make it again")
    file.write_text(json.dumps([1]))
    with pytest.raises(UserError, match="holds no JSON object: make it again"):
        read_json_object(file, "make it again")
