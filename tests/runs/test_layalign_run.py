"""LayAlign from data to report on the embedded models, stopped and resumed, and what it hands on."""

from __future__ import annotations

import pytest

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.models.connectors import kind_of
from mmscale.runs.run import stages_of
from mmscale.training.metrics import read_metrics
from tests.runs.overfitting import answers, settings

CONFIG = "papers/layalign-tinyworld.yaml"


@pytest.mark.slow
def test_a_run_overfits_ten_examples_reports_and_hands_on_what_answers_the_same(tmp_path, capsys):
    folder = tmp_path / "run"
    chosen = settings(folder, "layalign", "translation", "task", steps=200)
    assert main(["run", CONFIG, *chosen]) == 0
    said = capsys.readouterr().err
    assert " tokens x 3 x 96 x 4 bytes = " in said, "the states of all layers are kept, their size is said first"
    stage = stages_of(load_run(CONFIG, chosen))[1]
    assert [row for row in read_metrics(stage.folder / "metrics.jsonl") if "loss" in row][-1]["loss"] < 0.05
    assert (folder / "report.html").is_file() and '"layalign"' in (folder / "scores.json").read_text()
    mapping = stage.model / "connector.safetensors"
    made = kind_of(mapping).read(mapping)
    assert made.gates.abs().min() > 0, "every layer reads"

    said, target = answers(stage, mapping, tmp_path, capsys)
    assert said == [target] * 3, "decoding reads what training wrote"
