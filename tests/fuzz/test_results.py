"""Damaged results, others' and ours: scored, taken up without the lost lines, or refused in a sentence."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmscale.cli.main import main
from mmscale.evaluation.predictions import Prediction, read_log
from mmscale.training.metrics import read_metrics
from tests.evaluation.test_prediction_files import FORMS
from tests.fuzz.mutations import JSON_VALUES, bounded, damaged

LOG = "".join(
    json.dumps(
        {"question": f"q{i}", "response": "r", "answer": "1", "language": "sw", "origin": f"f:{i}", "correct": True}
    )
    + "\n"
    for i in range(4)
)
METRICS = "".join(json.dumps({"step": i, "loss": 0.5}) + "\n" for i in range(4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@bounded(150)
@given(data=st.data())
def test_damaged_predictions_are_scored_or_refused_in_a_sentence(folder, data):
    name = data.draw(st.sampled_from(sorted(FORMS)))
    (folder / name).write_bytes(data.draw(damaged(FORMS[name], JSON_VALUES)))
    rule = data.draw(st.sampled_from(["default", "last_number", "mcot", "proxy_gsm", "exact"]))
    assert main(["evaluate", "--predictions", str(folder / name), "--rule", rule]) in (0, 2)


@bounded(200)
@given(log=damaged(LOG, JSON_VALUES), metrics=damaged(METRICS, JSON_VALUES))
def test_our_own_logs_are_taken_up_whatever_was_lost(folder, log, metrics):
    (folder / "sw.jsonl").write_bytes(log)
    (folder / "metrics.jsonl").write_bytes(metrics)
    rows = read_log(folder / "sw.jsonl")
    assert all(isinstance(row, Prediction) for row in rows) and len(rows) <= log.count(b"\n")
    assert all(type(row["step"]) is int for row in read_metrics(folder / "metrics.jsonl"))
