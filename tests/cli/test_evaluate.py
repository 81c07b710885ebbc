"""The contract of `mmscale evaluate` for programs: forms in, one JSON object out."""

from __future__ import annotations

import json

import pytest

from mmscale.cli.main import main

ROWS = [("The answer is 18.", "18"), ("7", "8"), ("so 70,000", "70000"), ("It is 4.", "4.0")]


def write(path, rows, array):
    text = json.dumps(rows) if array else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def run(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("array", [True, False])
@pytest.mark.parametrize(
    "form",
    [
        lambda r, a: {"question": "q", "response": r, "prediction": "wrong on purpose", "answer": a, "result": False},
        lambda r, a: {"question": "q", "answer": a, "model_output": r, "prediction": "wrong on purpose"},
        lambda r, a: {
            "question": "q",
            "response": r,
            "answer": a,
            "language": "en",
            "origin": "x:1",
            "prediction": "",
            "correct": False,
        },
    ],
    ids=["mcot", "proxy", "ours"],
)
def test_every_form_is_scored_again_from_the_response(tmp_path, capsys, form, array):
    file = write(tmp_path / "predictions.json", [form(*row) for row in ROWS], array)
    result = run(capsys, "--predictions", file, "--rule", "last_number")
    assert (result["n"], result["correct"], result["accuracy"]) == (4, 3, 0.75)
    assert result["interval"][0] < 0.75 < result["interval"][1]
    assert run(capsys, "--predictions", file, "--rule", "mcot")["correct"] == 2, "mcot does not remove commas"


def test_paired_bootstrap_against_another_file(tmp_path, capsys):
    right = write(tmp_path / "a.jsonl", [{"question": "q", "response": "1", "answer": "1"}] * 30, False)
    wrong = write(tmp_path / "b.jsonl", [{"question": "q", "response": "2", "answer": "1"}] * 30, False)
    assert run(capsys, "--predictions", right, "--against", wrong)["gain"]["difference"] == 1.0


def test_consistency_prints_nested_maps(tmp_path, capsys):
    files = {}
    for code, answers in {"de": "1 7 8 4", "fr": "1 7 9 5"}.items():
        rows = [
            {"question": "q", "response": r, "answer": a}
            for r, a in zip(answers.split(), ["1", "2", "3", "4"], strict=True)
        ]
        files[code] = write(tmp_path / f"{code}.jsonl", rows, False)
    pairs = [f"{code}={file}" for code, file in files.items()]
    result = run(capsys, "--consistency", *pairs, "--rule", "mcot")
    assert result["cc"]["de"]["fr"] == 0.25 and result["ic"]["fr"]["de"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    again = run(capsys, "--consistency", pairs[0], "--consistency", pairs[1], "--rule", "mcot")
    assert again == result
