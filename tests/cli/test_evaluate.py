"""The contract of `mmscale evaluate` for programs: forms in, one JSON object out."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from safetensors.torch import load_file, save_file

from mmscale.cli.main import main
from mmscale.models.places import resolve_path

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


def refused(capsys, *arguments):
    assert main(["evaluate", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def answered(responses, answers, **more):
    rows = [{"question": f"q{i}", "response": r, "answer": a} for i, (r, a) in enumerate(zip(responses, answers))]
    return [{**row, **{key: values[i] for key, values in more.items()}} for i, row in enumerate(rows)]


def test_every_file_is_scored(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", answered("12", "11"), False)
    b = write(tmp_path / "b.jsonl", answered("111", "111"), False)
    found = run(capsys, "--predictions", a, b)
    assert [found["files"][str(file)]["correct"] for file in (a, b)] == [1, 3] and (found["n"], found["correct"]) == (
        5,
        4,
    )
    by_language = run(capsys, "--predictions", f"de={a}", f"fr={b}")
    assert {code: one["n"] for code, one in by_language["languages"].items()} == {"de": 2, "fr": 3}


def test_what_would_be_dropped_is_refused(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", answered("12", "11"), False)
    b = write(tmp_path / "b.jsonl", answered("12", "11"), False)
    assert "one of both" in refused(capsys, "--predictions", a, "--consistency", f"de={a}")
    assert "given twice" in refused(capsys, "--predictions", a, a)
    assert "'de' is given twice" in refused(capsys, "--consistency", f"de={a}", f"de={a}")
    assert "--predictions FILE" in refused(capsys, "--against", a)
    assert "one other" in refused(capsys, "--predictions", a, b, "--against", a)
    assert "max_new_tokens" in refused(capsys, "tinyworld:llm", "--max-new-tokens", "0")


def test_shuffled_files_are_matched_or_refused(tmp_path, capsys):
    """By id over languages, by question over models; else golds tell that rows are of different problems."""
    golds = [str(n) for n in range(40)]
    rows = answered(golds, golds, id=list(range(40)))
    mixed = random.Random(0).sample(rows, 40)
    files = {name: write(tmp_path / f"{name}.jsonl", found, False) for name, found in (("de", rows), ("fr", mixed))}
    pairs = [f"{code}={file}" for code, file in files.items()]
    found = run(capsys, "--consistency", *pairs)
    assert (found["cc"]["de"]["fr"], found["by"], found["n"]) == (1.0, "id", 40)
    for found in (rows, mixed):
        for row in found:
            row.pop("id", None)
    for name, found in (("de", rows), ("fr", mixed)):
        write(tmp_path / f"{name}.jsonl", found, False)
    assert "not answers to the same problem" in refused(capsys, "--consistency", *pairs)
    gain = run(capsys, "--predictions", files["de"], "--against", files["fr"])["gain"]
    assert (gain["difference"], gain["by"]) == (0.0, "question")
    write(files["fr"], mixed[:-1], False)
    assert "has a row" in refused(capsys, "--predictions", files["de"], "--against", files["fr"])
    assert "same questions" in refused(capsys, "--consistency", *pairs)


@pytest.mark.parametrize("gold", ["NaN", "Infinity", "-inf", "B"])
@pytest.mark.parametrize("rule", ["default", "last_number"])
def test_a_gold_that_is_no_number_is_refused(tmp_path, capsys, gold, rule):
    file = write(tmp_path / "a.jsonl", [*answered("1", "1"), {"question": "q", "response": "1", "answer": gold}], False)
    error = refused(capsys, "--predictions", file, "--rule", rule)
    assert f"{file}:2" in error and gold in error
    assert (main(["evaluate", "--predictions", str(file), "--rule", "exact"]) == 0) is (gold == "B")


def test_an_incorrect_consistency_of_few_shows_a_dash(tmp_path, capsys):
    files = [write(tmp_path / f"{code}.jsonl", answered("17945", "12345"), False) for code in ("de", "fr")]
    assert main(["evaluate", "--consistency", f"de={files[0]}", f"fr={files[1]}"]) == 0
    text = capsys.readouterr().out
    table = text[text.index("IC") :].splitlines()
    assert table[1].split() == ["de", "–", "–"] and table[3].split() == ["wrong", "2", "2"]


def test_a_task_is_asked_by_a_prompt_that_shows_its_options(tmp_path, capsys):
    """A math prompt would lose them in silence: it is refused, and so is a rule that reads numbers."""
    choices = [{"label": label, "text": text} for label, text in zip("ABCDE", ["bank", "town", "sea", "hill", "wood"])]
    rows = [
        {"id": str(n), "lang": "en", "question": {"stem": "Where is it?", "choices": choices}, "answerKey": "A"}
        for n in range(2)
    ]
    file = write(tmp_path / "dev.jsonl", rows, False)
    command = ["tinyworld:llm", "--source", "xcsqa", "--path", file, "--split", "dev", "--max-new-tokens", "4"]
    command += ["--output", tmp_path / "predictions"]
    assert "reads word problems, and these are multiple-choice questions" in refused(
        capsys, *command, "--rule", "exact"
    )
    assert "cannot compare anything with the gold answer 'A'" in refused(capsys, *command, "--prompt", "xcsqa")
    found = run(capsys, *command, "--prompt", "xcsqa", "--rule", "exact")
    assert found["en"]["n"] == 2


def test_a_model_that_was_replaced_at_its_path_goes_on_with_no_other_ones_answers(tmp_path, capsys):
    """Half of an evaluation, and half of the answers of generate, then another checkpoint at the same path."""
    model = tmp_path / "model"
    shutil.copytree(resolve_path("tinyworld:llm"), model)
    asked = ["--prompt", "tinyworld_math", "--max-new-tokens", "4"]
    data = ["--source", "tinyworld", "--languages", "en", "--limit", "2", "--output", str(tmp_path / "predictions")]
    generate = ["generate", str(model), *asked, "1 + 1?", "--output", str(tmp_path / "answers.jsonl")]
    assert main(["evaluate", str(model), *asked, *data]) == main(generate) == 0
    file = tmp_path / "predictions/tinyworld/en.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    shutil.copy(model / "model.safetensors", tmp_path / "kept")
    weights = load_file(model / "model.safetensors")
    save_file({name: 1.01 * tensor for name, tensor in weights.items()}, model / "model.safetensors", {"format": "pt"})
    assert "another model than the one that is at" in refused(capsys, model, *asked, *data)
    assert main(generate) == 2
    assert "is of another model, setting or question" in capsys.readouterr().err
    shutil.copy(tmp_path / "kept", model / "model.safetensors")
    assert main(["evaluate", str(model), *asked, *data]) == main(generate) == 0
    assert len(file.read_text().splitlines()) == 2
