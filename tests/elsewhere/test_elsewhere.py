"""The same answers, losses and scores on a device that is not the CPU, which is waited for once a step and once a round.

No GPU is at hand where these tests run. Not in them: kernels (tests/kernels), autocast, CUDA graphs (tests/decoding), NCCL, DeepSpeed.
"""

from __future__ import annotations

import json

import pytest

from mmscale.cli.main import main
from mmscale.training.metrics import read_metrics
from tests.distributed import ranks
from tests.runs.test_run import STAGES, command

STEPS = 2 * 4
FEWER = (
    "methods=[question_alignment,mindmerger]",
    "evaluation.tasks.tinyworld.data.limit_per_language=3",
    "evaluation.tasks.tinyworld.generation.max_new_tokens=40",
)

PLAIN_STEPS = tuple(
    f"recipes.{stage}.optimizer.{key}=1"
    for stage in STAGES[:4]
    for key in ("learning_rate", "eps", *(["embedding_learning_rate"] if "question" in stage else []))
)
"""AdamW that moves a weight by about its gradient. With its usual eps of 1e-8 it divides a gradient near zero by itself, which
makes a rounding as large as a step."""
FORWARD = 2 * (7 * 3 + 1) * 352 * 2.0**-24
"""What rounding can do to a loss, relatively, forwards and backwards: the LLM's 22 products in turn, of at most 352 terms with
a unit of 2^-24 each, in whatever order a processor adds them."""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    ranks.run(1, ["-m", "tests.elsewhere.worker", str(folder), *command(folder / "run", *FEWER, *PLAIN_STEPS)])
    return folder, json.loads((folder / "found.json").read_text())


def test_the_device_counts_what_waits_and_refuses_mixed_operands(found):
    *counts, (_, said) = found[1]["device"].items()
    assert dict(counts) == {"boolean index": 1, "read": 1, "numbers": 1, "page-locked numbers": 0, "index": 0}
    assert "expected all tensors to be on the same device, found elsewhere:0 and cpu" in said


def test_speculative_and_plain_decoding_wait_once_a_round(found):
    cases = found[1]["decoding"]
    assert len(cases) == 9
    for name, case in cases.items():
        (tokens, rounds, admissions), (expected, *_) = case["there"], case["here"]
        assert tokens == expected, name
        waits = {place: count for place, count in case["waits"].items() if place != "outside"}
        # the drafts that a repetition penalty has to look at are read before
        extra = {"engine.py _held": rounds} if name.startswith("repetition") else {}
        assert waits == {"engine.py _read": rounds + admissions, **extra}, name


def test_every_family_answers_the_same(found):
    assert len(found[1]["answers"]) == 7
    for name, case in found[1]["answers"].items():
        assert case["there"] == case["here"], name
        assert set(case["waits"]) <= {"outside", "engine.py _read", "base.py _encoded"}, name


def test_every_family_learns_the_same_and_waits_for_nothing(found):
    for name, case in found[1]["learning"].items():
        assert case["there"] == pytest.approx(case["here"], rel=1e-9), name
        # transformers looks whether an encoder's mask masks anything
        assert set(case["waits"]) <= {"outside", "base.py _encoded"}, name


def test_a_whole_run_gives_the_same_there(found):
    folder, waits = found[0], found[1]["run"]
    assert main(command(folder / "here", *FEWER, *PLAIN_STEPS)) == 0
    for stage in STAGES[:4]:
        there, here = (read_metrics(folder / run / "stages" / stage / "metrics.jsonl") for run in ("run", "here"))
        losses = [[row["loss"] for row in rows if "loss" in row] for rows in (there, here)]
        assert losses[0] == pytest.approx(losses[1], rel=2 * FORWARD), "two runs, each rounded in its own way"
    scores = [json.loads((folder / run / "scores.json").read_text()) for run in ("run", "here")]
    assert scores[0].keys() == scores[1].keys() and scores[0]["base"] == scores[1]["base"]
    assert waits["local.py train_step"] == STEPS, "one wait a training step"
