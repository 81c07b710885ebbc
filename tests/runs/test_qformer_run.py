"""A QFormer from data to report on the embedded models, and what it hands on."""

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

CONFIG = "papers/mindmerger-tinyworld.yaml"
TEN = "[{source: tinyworld, limit_per_language: 10, options: {form: %s}}]"


def settings(folder: Path) -> list[str]:
    mapping, augmentation = "recipes.qformer.mapping", "recipes.qformer.augmentation"
    return [
        f"output_dir={folder}",
        "methods=[qformer]",
        "languages=[sw]",
        f"{mapping}.data={TEN % 'translation'}",
        f"{mapping}.packing.global_batch_size=10",
        f"{mapping}.steps=2",
        f"{augmentation}.data={TEN % 'problem, rationale_language: en'}",
        f"{augmentation}.packing.global_batch_size=10",
        f"{augmentation}.steps=300",
        f"{augmentation}.optimizer.learning_rate=2e-3",
        f"{augmentation}.prompt=replacement",  # what is asked comes through the queries alone
        "evaluation.tasks.tinyworld.data.limit_per_language=3",
        "evaluation.tasks.tinyworld.generation={max_new_tokens: 8, batch_size: 3}",
    ]


@pytest.mark.slow
def test_a_run_overfits_ten_examples_reports_and_hands_on_what_answers_the_same(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", CONFIG, *settings(folder)]) == 0
    stage = stages_of(load_run(CONFIG, settings(folder)))[1]
    assert [row for row in read_metrics(stage.folder / "metrics.jsonl") if "loss" in row][-1]["loss"] < 0.05
    assert (folder / "report.html").is_file()
    assert '"qformer"' in (folder / "scores.json").read_text()
    data = StageData(stage).in_memory()[0].train
    assert {one.prefix_length for one in data} == {17}
    record = StageData(stage).records()[0].records[0]
    mapping = stage.model / "connector.safetensors"
    assert kind_of(mapping).text == stage.connector

    whole = tmp_path / "whole"
    assert main(["convert", str(stage.model), str(whole), "--whole"]) == 0
    by_hand = ["tinyworld:llm", "--encoder", "tinyworld:encoder", "--mapping", str(mapping), "--prompt", "replacement"]
    answers = []
    for model in ([str(stage.model)], [str(whole)], by_hand):
        capsys.readouterr()
        assert main(["generate", *model, record.text, "--language", "sw", "--max-new-tokens", "90"]) == 0
        answers.append(capsys.readouterr().out.strip())
    target = template("replacement").target(record).strip()
    assert answers[0] == answers[1] == answers[2] == target, "decoding reads the queries that training wrote"
