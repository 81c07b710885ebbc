"""Ranks share the prompts of an evaluation: each answered once, the files the same as from one process."""

from __future__ import annotations

import contextlib
import json
import re
import signal
from pathlib import Path

import pytest

from mmscale.training.metrics import read_metrics
from tests.distributed import ranks

LANGUAGES = ("en", "sw")
ROWS = 46  # with batches of two, 23 turns a language: the signal comes long before the last of them


def command(folder: Path, *more: str) -> list[str]:
    settings = {
        "output_dir": folder,
        "methods": "[mindmerger]",
        "languages": "[en,sw]",
        "threads": 1,
        "evaluation.tasks.tinyworld.data.limit_per_language": ROWS,
        "evaluation.tasks.tinyworld.generation.max_new_tokens": 40,
        "evaluation.tasks.tinyworld.generation.batch_size": 2,
    }
    for stage in ("mapping", "augmentation"):
        settings |= {
            f"recipes.mindmerger.{stage}.steps": 2,
            f"recipes.mindmerger.{stage}.data.0.limit_per_language": 40,
            f"recipes.mindmerger.{stage}.data.0.languages": "[sw]",
            f"recipes.mindmerger.{stage}.optimizer.learning_rate": 1e-9,
        }
    return ["-m", "mmscale", "run", "configs/quickstart.yaml", *[f"{k}={v}" for k, v in settings.items()], *more]


def predictions(folder: Path) -> dict[str, str]:
    files = (folder / "predictions").rglob("*.jsonl")
    return {str(file.relative_to(folder)): file.read_text(encoding="utf-8") for file in files}


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    ranks.run(1, command(folder))
    return folder


def test_three_ranks_train_answer_and_report_as_one(alone, tmp_path):
    ranks.run(3, command(tmp_path))
    expected, found = predictions(alone), predictions(tmp_path)
    assert set(found) == {f"predictions/{m}/tinyworld/{c}.jsonl" for m in ("base", "mindmerger") for c in LANGUAGES}
    assert found == expected, "every answer once, in the order of the data, and no part left over"
    assert (tmp_path / "report.html").is_file()
    for rank in range(3):
        log = (tmp_path / "logs" / f"rank-{rank}.log").read_text(encoding="utf-8")
        assert re.search(rf"INFO rank {rank}: MindMerger: mapping: step \d+ of \d+, loss", log), "a file of each rank"
    assert json.loads((tmp_path / "scores.json").read_text()) == json.loads((alone / "scores.json").read_text())


def answers(folder: Path, code: str) -> set[str]:
    """Lines answered so far to the base's problems in a language, wherever they are kept."""
    found: set[str] = set()
    for file in (folder / "predictions" / "base" / "tinyworld").glob(f"{code}*.jsonl"):
        with contextlib.suppress(FileNotFoundError):  # a part that was merged meanwhile
            found |= set(file.read_text(encoding="utf-8").splitlines())
    return found


def test_killed_and_stopped_evaluations_go_on_with_other_ranks(alone, tmp_path):
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    started = ranks.start(2, command(tmp_path))
    ranks.wait_for(lambda: len(answers(tmp_path, "en")) >= 8, started)
    for rank in started:
        rank.kill()
    ranks.finish(started)
    killed = answers(tmp_path, "en")
    assert ROWS > len(killed) >= 8
    started = ranks.start(3, command(tmp_path))
    ranks.wait_for(lambda: len(answers(tmp_path, "sw")) >= 4, started)
    started[1].send_signal(signal.SIGUSR1)
    results = ranks.finish(started)
    assert [code for code, _ in results] == [128 + signal.SIGUSR1] * 3, results
    assert "Base: stopped by signal SIGUSR1; the same command goes on" in results[0][1].replace("\n", " ")
    stopped = answers(tmp_path, "sw")
    assert ROWS > len(stopped) >= 4
    ranks.run(2, command(tmp_path, "parallel.tensor_parallel_size=2"))
    assert predictions(tmp_path) == predictions(alone)
    assert killed < answers(tmp_path, "en") and stopped < answers(tmp_path, "sw"), "what was answered stays"


@pytest.mark.slow
def test_a_task_is_solved_while_parameters_are_partitioned_as_by_one_process(tmp_path):
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    recipe = "recipes.multilingual_cot.tuning"
    settings = {
        "languages": "[en,sw]",
        "threads": 1,
        f"{recipe}.steps": 2,
        f"{recipe}.evaluate_every_steps": 1,
        f"{recipe}.evaluate_task": "tinyworld",
        f"{recipe}.evaluate_task_rows": 8,
        f"{recipe}.data.0.limit_per_language": 40,
        f"{recipe}.optimizer.learning_rate": 1e-5,
        "parallel.zero.persistence_threshold": 0,
    }
    found = {}
    for count, stage in ((1, 0), (2, 3)):
        folder = tmp_path / str(stage)
        words = [f"{key}={value}" for key, value in settings.items()]
        words += [f"output_dir={folder}", f"parallel.zero.stage={stage}"]
        ranks.run(count, ["launch/train.py", "configs/quickstart.yaml", "multilingual_cot.tuning", *words])
        rows = read_metrics(folder / "stages" / "multilingual_cot.tuning" / "metrics.jsonl")
        found[stage] = [row["accuracy"] for row in rows if "accuracy" in row]
    assert found[3] == found[0] and len(found[0]) == 2 and 0.3 < found[0][0] < 0.7, "English yes, Swahili not yet"
