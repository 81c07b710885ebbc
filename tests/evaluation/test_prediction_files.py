"""Prediction files as authors' programs write them, and our own logs after a power failure."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import published_predictions
from mmscale.cli.main import main
from mmscale.config.training import StageConfig
from mmscale.errors import UserError
from mmscale.evaluation.prediction_forms import language_of_name
from mmscale.evaluation.predictions import Prediction, PredictionLog, read, read_log
from mmscale.parallel.context import ParallelContext
from mmscale.training.metrics import Metrics, read_metrics
from mmscale.training.training_run import TrainingRun
from tests.data.published import array, lines

FORMS = {
    # microsoft/MathOctopus and NJUNLP/QAlign, generate_and_eval.py, mgsm_test.py, svamp_test.py
    "gen_Swahili_datas.jsonl": lines(
        [
            {
                "index": 0,
                "gsm8k_data": {"query": "swali", "response": "18"},
                "input_str": "…",
                "output_str": "Jibu ni 18.",
            }
        ]
    ),
    "Swahili_correct.json": array(
        [
            {
                "index": 0,
                "svamp_data": {"query": "english", "equation": "-", "response": "18.0", "m_query": "swali"},
                "input_str": "…",
                "output_str": "Jibu ni 18.",
                "extract_true_num": 18.0,
                "extract_pred_num": 18.0,
                "is_correct": True,
            }
        ]
    ),
    # CONE-MT/MindMerger, run_evaluation.py with evaluate_math
    "Swahili.json": array(
        [{"question": "swali", "answer": "18", "prompt": "…", "prediction": "18.0", "output": "Jibu ni 18."}]
    ),
    # laihuiyuan/mCoT, infer.py
    "mcot_ft_mgsm_sw.json": lines(
        [{"question": "swali", "response": "Jibu ni 18.", "prediction": 18.0, "answer": 18.0, "result": True}]
    ),
    # alisawuffles/proxy-tuning, eval/gsm/run_eval.py
    "predictions_Swahili.jsonl": lines(
        [{"question": "swali", "answer": "18", "model_output": "Jibu ni 18.", "prediction": "18"}]
    ),
    # kaistAI/LangBridge, its evaluation-harness with --write_out
    "mgsm_sw_write_out_info.json": array(
        [{"doc_id": 0, "prompt_0": "swali", "logit_0": "Jibu ni 18.", "truth": " 18[END]", "acc": "True"}]
    ),
    # lm-eval --log_samples
    "samples_mgsm_direct_sw_2025-01-31T10.jsonl": lines(
        [
            {
                "doc_id": 0,
                "doc": {"question": "swali"},
                "target": "18",
                "resps": [["Jibu ni 18."]],
                "filtered_resps": ["18"],
            }
        ]
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_question_response_gold_and_language(tmp_path, name, capsys):
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    (row,) = read(tmp_path / name)
    assert (row.question, row.response, float(row.answer), row.language) == ("swali", "Jibu ni 18.", 18, "sw")
    assert read(tmp_path / name, "fr")[0].language == "fr"
    assert main(["evaluate", "--predictions", str(tmp_path / name), "--rule", "last_number", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correct"] == 1


def test_published_predictions_are_scored_beside_their_own_verdicts(tmp_path, monkeypatch, capsys):
    """Rows that say what their authors made of them, a metrics.json beside rows that do not, and files that are something else."""
    for name in ("Swahili_correct.json", "mcot_ft_mgsm_sw.json", "predictions_Swahili.jsonl"):
        (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    wrong = {"question": "swali", "response": "Jibu ni 17.", "prediction": 18.0, "answer": 18.0, "result": True}
    (tmp_path / "mcot_ft_mgsm_sw.json").write_text(FORMS["mcot_ft_mgsm_sw.json"] + lines([wrong]), encoding="utf-8")
    (tmp_path / "metrics.json").write_text('{"exact_match": 0.5}')
    (tmp_path / "data.jsonl").write_text(lines([{"question": "q", "answer": "1"}]))
    monkeypatch.setattr(sys, "argv", ["published-predictions", str(tmp_path), "--json"])
    published_predictions.main()
    told = json.loads(capsys.readouterr().out)
    seen = {name: (one["rule"], one["published"], one["by_their_rule"], one["differ"]) for name, one in told.items()}
    assert seen == {
        "Swahili_correct.json": ("last_number", 1.0, 1.0, 0),
        "mcot_ft_mgsm_sw.json": ("mcot", 1.0, 0.5, 1),
        "predictions_Swahili.jsonl": ("proxy_gsm", 0.5, 1.0, None),
    }
    (tmp_path / "empty").mkdir()
    twice = [str(tmp_path), str(tmp_path)]
    for folders, said in (([str(tmp_path / "empty")], "no prediction file"), (twice, "as another folder has")):
        monkeypatch.setattr(sys, "argv", ["published-predictions", *folders])
        with pytest.raises(SystemExit, match="2"):
            published_predictions.main()
        assert said in capsys.readouterr().err.replace("\n", " ")


def test_mindmergers_classifications_are_scored_by_their_prediction(tmp_path, capsys):
    """evaluate_classification: {prompt, prediction, answer}, the prediction being the whole output, stripped."""
    rows = [{"prompt": "…", "prediction": p, "answer": "neutral"} for p in ("neutral", "entailment")]
    (tmp_path / "Urdu.json").write_text(array(rows))
    assert [row.language for row in read(tmp_path / "Urdu.json")] == ["ur", "ur"]
    assert main(["evaluate", "--predictions", str(tmp_path / "Urdu.json"), "--rule", "exact", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 0.5


@pytest.mark.parametrize(
    "name,code",
    [
        ("sw.jsonl", "sw"),
        ("test_German.json", "de"),
        ("run_id.jsonl", None),
        ("answers_it.jsonl", None),
        ("p.jsonl", None),
    ],
)
def test_only_names_that_can_mean_nothing_else_name_a_language(tmp_path, name, code):
    assert language_of_name(tmp_path / name) == code


@pytest.mark.parametrize(
    "row,problem",
    [
        ({"question": "q", "response": "1"}, "no gold answer"),
        ({"index": 0, "gsm8k_data": {"query": "q", "response": "18"}, "input_str": "x"}, "no response"),
        ({"question": "q", "response": "1", "answer": " "}, "gold answer is empty"),
        ({"question": "q", "response": "1", "answer": "1", "lang": "sww"}, "'sww' is no language"),
        ({"question": ["q"], "response": "1", "answer": "1"}, "'question' is list"),
    ],
)
def test_a_row_that_is_of_no_form_is_named(tmp_path, row, problem):
    (tmp_path / "p.jsonl").write_text(lines([{"question": "q", "response": "1", "answer": "1"}, row]))
    with pytest.raises(UserError, match=rf"p.jsonl:2: .*{problem}"):
        read(tmp_path / "p.jsonl")


DAMAGE = [b"\0" * 30, b"{", b'{"step": 1}', b"\xff\xfe", b'"text"', b"[" * 5000, b'{"question": 1}']


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_of_our_own_predictions_is_an_open_question(tmp_path, capsys, damage):
    context, path = ParallelContext(device=torch.device("cpu")), tmp_path / "sw.jsonl"
    rows = [Prediction(question=f"q{i}", response="1", answer="1", language="sw", origin=f"file:{i}") for i in range(3)]
    log = PredictionLog(path, "work", context)
    log.append(rows)
    held = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([held[0], damage, *held[2:]]))
    assert [row.origin for row in read_log(path)] == ["file:0", "file:2"]
    assert f"{path}:2 is damaged, as a power failure leaves it" in capsys.readouterr().err.replace("\n", "")
    again = PredictionLog(path, "work", context)
    assert set(again.rows) == {"file:0", "file:2"}
    again.append([rows[1]])
    again.collect([row.origin for row in rows])
    assert read_log(path) == rows


@pytest.mark.parametrize("damage", DAMAGE[:2] + DAMAGE[3:])
def test_a_damaged_line_of_metrics_loses_no_other(tmp_path, capsys, damage):
    path = tmp_path / "metrics.jsonl"
    good = [b'{"step": %d, "loss": 0.5}' % i for i in (1, 2, 3)]
    path.write_bytes(b"\n".join([good[0], damage, *good[1:], b'{"step": 4, "lo']))
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]
    told = capsys.readouterr().err.replace("\n", "")
    assert f"{path}:2 is damaged" in told and f"{path}:5" not in told
    run = TrainingRun(title="", folder=tmp_path, config=StageConfig(steps=3), seed=0, fingerprint="")
    Metrics(run, 2).close()
    assert path.read_bytes() == b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.5}\n'


def test_answers_of_a_replaced_model_are_kept_apart(tmp_path, capsys):
    """Refused while the replaced one is there, kept when it is back or not at hand; other settings ask again, and say so."""
    context, path = ParallelContext(device=torch.device("cpu")), tmp_path / "sw.jsonl"
    rows = [Prediction(question="q", response="1", answer="1", language="sw", origin="file:0")]
    first, second = {"/models/a": {"model.safetensors": "1"}}, {"/models/a": {"model.safetensors": "2"}}
    PredictionLog(path, "work", context, first).append(rows)
    with pytest.raises(
        UserError, match=r"sw.jsonl holds answers of another model than the one that is at /models/a now \(its model"
    ):
        PredictionLog(path, "work", context, second)
    for models in ({}, first):
        assert set(PredictionLog(path, "work", context, models).rows) == {"file:0"}
    with pytest.raises(UserError, match="another model"):  # what is not at hand is not forgotten
        PredictionLog(path, "work", context, second)
    assert not PredictionLog(path, "other work", context, second).rows
    assert "its 1 rows are of other settings than now" in capsys.readouterr().err.replace("\n", "")
