"""LayAlign from data to report on the embedded models, stopped and resumed, and what it hands on."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.data.prompts import template
from mmscale.models.connectors import kind_of
from mmscale.runs.run import stages_of
from mmscale.runs.stage_data import StageData
from mmscale.training.metrics import read_metrics

CONFIG = "papers/layalign-tinyworld.yaml"
TEN = "[{source: tinyworld, limit_per_language: 10, options: {form: %s}}]"


def settings(folder: Path) -> list[str]:
    translation, task = "recipes.layalign.translation", "recipes.layalign.task"
    return [
        f"output_dir={folder}",
        "methods=[layalign]",
        "languages=[sw]",
        f"{translation}.data={TEN % 'translation'}",
        f"{translation}.packing.global_batch_size=10",
        f"{translation}.steps=2",
        f"{task}.data={TEN % 'problem, rationale_language: en'}",
        f"{task}.packing.global_batch_size=10",
        f"{task}.steps=200",
        f"{task}.prompt=replacement",  # what is asked comes through the encoder alone
        "evaluation.tasks.tinyworld.data.limit_per_language=3",
        "evaluation.tasks.tinyworld.generation={max_new_tokens: 8, batch_size: 3}",
    ]


@pytest.mark.slow
def test_a_run_overfits_ten_examples_reports_and_hands_on_what_answers_the_same(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", CONFIG, *settings(folder)]) == 0
    said = capsys.readouterr().err
    assert " tokens x 3 x 96 x 4 bytes = " in said, "the states of all layers are kept, their size is said first"
    stage = stages_of(load_run(CONFIG, settings(folder)))[1]
    assert [row for row in read_metrics(stage.folder / "metrics.jsonl") if "loss" in row][-1]["loss"] < 0.05
    assert (folder / "report.html").is_file() and '"layalign"' in (folder / "scores.json").read_text()
    mapping = stage.model / "connector.safetensors"
    made = kind_of(mapping).read(mapping)
    assert made.gates.abs().min() > 0, "every layer reads"

    whole = tmp_path / "whole"
    assert main(["convert", str(stage.model), str(whole), "--whole"]) == 0
    by_hand = ["tinyworld:llm", "--encoder", "tinyworld:encoder", "--mapping", str(mapping), "--prompt", "replacement"]
    record, answers = StageData(stage).records()[0].records[0], []
    for model in ([str(stage.model)], [str(whole)], by_hand):
        capsys.readouterr()
        assert main(["generate", *model, record.text, "--language", "sw", "--max-new-tokens", "90"]) == 0
        answers.append(capsys.readouterr().out.strip())
    target = template("replacement").target(record).strip()
    assert answers[0] == answers[1] == answers[2] == target, "decoding reads what training wrote"
