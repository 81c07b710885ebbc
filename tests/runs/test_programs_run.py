"""A run whose models answer with programs, from training to report, in one go: alone, and as two ranks that share them."""

from __future__ import annotations

import json
import shutil

import pytest

from mmscale.cli.main import main
from mmscale.cli.processes import run_processes
from mmscale.data.prompts import template
from mmscale.data.records import Problem
from mmscale.tinyworld import grammar

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="the sandbox is bubblewrap's (package bubblewrap)"
)
CONFIG = "configs/question_alignment/tinyworld-programs.yaml"
SMALL = [
    "languages=[en,sw]",
    "threads=1",
    "evaluation.base=false",
    "evaluation.tasks.tinyworld.data.limit_per_language=4",
    "evaluation.tasks.tinyworld.generation.max_new_tokens=24",
    "execution.seconds=1",
    "execution.workers=1",
    *(
        f"recipes.question_alignment.{stage}.{key}"
        for stage in ("translation", "response")
        for key in ("steps=2", "data.0.limit_per_language=8", "packing.global_batch_size=4")
    ),
    "recipes.question_alignment.translation.data.0.languages=[sw]",
    "recipes.question_alignment.translation.data.1.limit_per_language=8",
]


def scores(folder) -> dict:
    found = json.loads((folder / "scores.json").read_text())["question_alignment"]["tasks"]["tinyworld"]
    return found


def test_a_run_trains_on_programs_and_is_scored_by_running_them(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(["run", CONFIG, f"output_dir={folder}", *SMALL]) == 0
    entry = scores(folder)
    assert entry["rule"] == "program"
    rows = [json.loads(line) for line in (folder / "predictions/question_alignment/tinyworld/sw.jsonl").open()]
    assert len(rows) == entry["languages"]["sw"]["n"] == 4
    failed = entry["languages"]["sw"]["failures"]
    assert sum(failed.values()) == sum(not row["prediction"] for row in rows) > 0  # two steps teach no Python
    assert f"programs without a value: {next(iter(failed))}" in capsys.readouterr().out
    assert "Programs that gave no value" in (folder / "report.html").read_text()


def test_the_gold_program_of_every_problem_gives_its_answer():
    """Told in each language, asked by the prompt that the run trains with."""
    from mmscale.evaluation.answers import rule

    chosen, right = rule("program"), []
    stories = list(grammar.stories(11, seed=3, split="test"))
    for story, language in zip(
        stories, ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh"), strict=True
    ):
        record = Problem(
            question=grammar.question(story, language), language=language, rationale=grammar.program(story, language)
        )
        assert template("tinyworld_program").prompt(record).text.endswith("\nProgram:")
        response = template("tinyworld_program").target(record)
        right.append(chosen.correct(response, str(story.answer), language)[1])
    assert all(right)


@pytest.mark.slow
def test_ranks_share_programs_and_score_as_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["run", CONFIG, f"output_dir={one}", *SMALL]) == 0
    assert run_processes(2, ["run", CONFIG, f"output_dir={two}", *SMALL]) == 0
    assert scores(two)["languages"]["sw"]["n"] == scores(one)["languages"]["sw"]["n"]
    assert scores(two)["rule"] == "program" and scores(two)["languages"]["en"]["failures"].keys()
