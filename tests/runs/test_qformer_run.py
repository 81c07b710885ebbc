"""A QFormer from data to report on the embedded models, and what it hands on."""

from __future__ import annotations

import pytest

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.models.connectors import kind_of
from mmscale.runs.run import stages_of
from mmscale.runs.stage_data import StageData
from mmscale.training.metrics import read_metrics
from tests.runs.overfitting import answers, settings

CONFIG = "papers/mindmerger-tinyworld.yaml"


@pytest.mark.slow
def test_a_run_overfits_ten_examples_reports_and_hands_on_what_answers_the_same(tmp_path, capsys):
    folder = tmp_path / "run"
    chosen = [
        *settings(folder, "qformer", "mapping", "augmentation", steps=300),
        "recipes.qformer.augmentation.optimizer.learning_rate=2e-3",
    ]
    assert main(["run", CONFIG, *chosen]) == 0
    stage = stages_of(load_run(CONFIG, chosen))[1]
    assert [row for row in read_metrics(stage.folder / "metrics.jsonl") if "loss" in row][-1]["loss"] < 0.05
    assert (folder / "report.html").is_file()
    assert '"qformer"' in (folder / "scores.json").read_text()
    data = StageData(stage).in_memory()[0].train
    assert {one.prefix_length for one in data} == {17}
    mapping = stage.model / "connector.safetensors"
    assert kind_of(mapping).text == stage.connector

    said, target = answers(stage, mapping, tmp_path, capsys)
    assert said == [target] * 3, "decoding reads the queries that training wrote"
