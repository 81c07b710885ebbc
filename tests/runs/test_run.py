"""The whole path from one command to a report, small; continuing, refusing a changed configuration, answering each row once."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from string import ascii_lowercase

import pytest
import torch

from mmscale.cli.main import main

STAGES = (
    "question_alignment.translation",
    "question_alignment.response",
    "mindmerger.mapping",
    "mindmerger.augmentation",
    "multilingual_cot.tuning",
)


def command(folder, *more: str) -> list[str]:
    overrides = [
        f"output_dir={folder}",
        "languages=[en,sw]",
        "evaluation.tasks.tinyworld.data.limit_per_language=6",
        "evaluation.tasks.tinyworld.generation.max_new_tokens=80",
        "proxy.base.path=tinyworld:llm",
    ]
    for stage in STAGES:
        overrides += [
            f"recipes.{stage}.steps=2",
            f"recipes.{stage}.data.0.limit_per_language=40",
            f"recipes.{stage}.data.0.languages=[{'en' if 'response' in stage else 'sw'}]",
        ]
    return ["run", "configs/quickstart.yaml", *overrides, *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(command(folder)) == 0
    return folder


def test_a_run_leaves_everything_the_design_names(finished):
    for name in ("run.yaml", "environment.json", "scores.json", "report.html"):
        assert (finished / name).is_file(), name
    for stage in STAGES:
        assert (finished / "stages" / stage / "metrics.jsonl").is_file()
        assert (finished / "stages" / stage / "model" / "mmscale.json").is_file()
    scores = json.loads((finished / "scores.json").read_text())
    assert list(scores) == ["base", "question_alignment", "mindmerger", "multilingual_cot", "proxy_base", "proxy_tuned"]
    for model in scores.values():
        assert {code: cell["n"] for code, cell in model["tasks"]["tinyworld"]["languages"].items()} == {
            "en": 6,
            "sw": 6,
        }
    assert scores["base"]["tasks"]["tinyworld"]["languages"]["en"]["accuracy"] == 1.0
    assert "gain" in scores["mindmerger"]["tasks"]["tinyworld"]["languages"]["sw"]


def test_running_again_repeats_nothing_wherever_the_run_lies(finished, tmp_path, monkeypatch, capsys):
    from mmscale.answering import local
    from mmscale.decoding.engine import DecodingEngine
    from mmscale.training.trainer import Trainer

    def never(*_, **__):
        raise AssertionError("work was repeated")

    monkeypatch.setattr(Trainer, "run", never)
    monkeypatch.setattr(DecodingEngine, "step", never)
    monkeypatch.setattr(local, "assemble", never)  # nor are weights loaded
    before = (finished / "scores.json").read_text()
    assert main(command(finished)) == 0
    assert (finished / "scores.json").read_text() == before
    moved = Path(shutil.copytree(finished, tmp_path / "run"))
    assert main(["run", str(moved / "run.yaml")]) == 2, "not to begin again elsewhere in silence"
    assert f"go on there with output_dir={moved.resolve()}" in capsys.readouterr().err
    (moved / "scores.json").unlink()
    assert main(["run", str(moved / "run.yaml"), f"output_dir={moved}"]) == 0
    assert (moved / "scores.json").read_text() == before


def test_a_lost_answer_alone_is_given_again(finished):
    file = finished / "predictions" / "base" / "tinyworld" / "sw.jsonl"
    rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(rows[:3]) + rows[3][:20], encoding="utf-8")
    before = (finished / "scores.json").read_text()
    assert main(command(finished)) == 0
    again = file.read_text(encoding="utf-8").splitlines(keepends=True)
    assert again[:3] == rows[:3] and sorted(again) == sorted(rows)
    assert (finished / "scores.json").read_text() == before


def test_a_changed_stage_is_refused_by_name(finished, capsys):
    assert main(command(finished, "recipes.mindmerger.mapping.steps=3")) == 2
    error = capsys.readouterr().err
    assert "mindmerger.mapping" in error and "another configuration" in error
    steps = json.loads((finished / "stages/mindmerger.mapping/settings.json").read_text())[
        "recipes.mindmerger.mapping"
    ]["steps"]
    assert f"recipes.mindmerger.mapping.steps was {steps}, now 3" in error


def test_training_one_stage_gives_the_same_model_as_the_run(finished, tmp_path, capsys):
    arguments = command(tmp_path / "one")
    assert main(["train", "configs/quickstart.yaml", "mindmerger.mapping", *arguments[2:]]) == 0
    assert str(tmp_path / "one") in capsys.readouterr().out
    name = "stages/mindmerger.mapping/model/mapping.safetensors"
    assert (finished / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_deterministic_algorithms_do_for_a_whole_step(finished, tmp_path):
    arguments = command(tmp_path, "deterministic=true")[2:]
    assert main(["train", "configs/quickstart.yaml", "mindmerger.augmentation", *arguments]) == 0
    assert torch.are_deterministic_algorithms_enabled()
    name = "stages/mindmerger.augmentation/model/mapping.safetensors"
    assert (finished / name).read_bytes() == (tmp_path / name).read_bytes(), "on a CPU they are those of every run"
    assert main(["train", "configs/quickstart.yaml", "mindmerger.augmentation", *arguments, "deterministic=false"]) == 0
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("place", ["stages/mindmerger.mapping", "predictions/base/tinyworld"])
def test_a_folder_that_another_run_writes_into_is_left_alone(tmp_path, capsys, place):
    """The other one is a process of its own; when it is killed, the folder is free."""
    script = "import sys, pathlib; from mmscale.storage.locks import alone_in\nwith alone_in(pathlib.Path(sys.argv[1])): print('in', flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "in\n"
    arguments = command(tmp_path, "methods=[]", "proxy=null")
    if place.startswith("stages"):
        arguments = ["train", "configs/quickstart.yaml", "mindmerger.mapping", *command(tmp_path)[2:]]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"{tmp_path / place} is in use by process {holder.pid} on " in error
    written = {file.name for file in (tmp_path / place).glob("[a-z]*")}
    assert written <= {"tokens", "data.json"}, "nothing but tokens, which any process may make, beside the other one"
    holder.kill()
    holder.wait()
    assert main(arguments) == 0


def test_a_run_of_no_method_asks_the_base_as_the_first_recipe_would(tmp_path):
    assert main(command(tmp_path, "methods=[]", "proxy=null")) == 0
    first = (tmp_path / "predictions/base/tinyworld/en.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first)["correct"], "the base answers English, asked in the format that it learnt"


def test_the_proxy_answers_those_of_its_languages_that_the_run_has(tmp_path, capsys):
    settings = ["methods=[question_alignment]", "recipes.question_alignment.translation.steps=1"]
    settings += ["recipes.question_alignment.response.steps=1"]
    assert main(command(tmp_path / "some", *settings, "proxy.languages=[de, sw]")) == 0
    assert {f.stem for f in (tmp_path / "some/predictions/proxy_tuned/tinyworld").glob("*.jsonl")} == {"sw"}
    capsys.readouterr()
    assert main(command(tmp_path / "none", *settings, "proxy.languages=[de]")) == 0
    assert "proxy: none of its languages (de) is among this run's" in capsys.readouterr().err
    assert not (tmp_path / "none/predictions/proxy_tuned").exists()


def rate_of(stage: Path) -> float:
    """The learning rate of its first step."""
    return json.loads((stage / "metrics.jsonl").read_text().splitlines()[0])["learning_rate"]


def test_the_seeds_combined_say_how_much_of_the_gap_is_closed(tmp_path):
    """Small expert, steered base, other strengths, and the base tuned itself; again, and nothing is repeated."""
    settings = ["proxy.ceiling=true", "proxy.sweep=[0.5, 1.0, 2.0]", "proxy.sweep_limit=3", "proxy.draft_tokens=3"]
    settings += ["proxy.ceiling_learning_rate_scale=0.5"]
    run = command(tmp_path, "methods=[question_alignment]", *settings, "proxy.languages=[]")
    assert main(run) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    names = ["base", "question_alignment", "proxy_base", "proxy_tuned", "proxy_alpha_0.5", "proxy_alpha_2"]
    assert list(scores) == [*names, "proxy_ceiling"]
    assert [scores[name].get("alpha") for name in names[2:]] == [0.0, 1.0, 0.5, 2.0]
    counts = {name: scores[name]["tasks"]["tinyworld"]["non_english"]["n"] for name in scores}
    assert counts["proxy_tuned"] == counts["proxy_ceiling"] == 6 and counts["proxy_alpha_0.5"] == 3
    closed = scores["proxy_tuned"]["tasks"]["tinyworld"]["gap_closed"]
    assert set(closed["languages"]) == {"en", "sw"} and "non_english" in closed
    report = (tmp_path / "report.html").read_text()
    assert 'class="card sweep"' in report and 'class="closed"' in report and "proxy_alpha" not in report
    tuned = tmp_path / "larger_base/stages/question_alignment.response/model/fingerprint.json"
    before = tuned.stat().st_mtime_ns
    rates = [
        rate_of(folder / "stages/question_alignment.translation") for folder in (tmp_path, tmp_path / "larger_base")
    ]
    assert rates[1] == pytest.approx(rates[0] / 2) and rates[0] > 0
    assert main(run) == 0
    assert tuned.stat().st_mtime_ns == before and json.loads((tmp_path / "scores.json").read_text()) == scores


def test_models_of_a_run_are_used_by_path(finished, capsys):
    stages = finished / "stages"
    question = "Anna has 12 apples. Anna buys 5 apples. Later Anna sells 3 apples. How many apples does Anna have now?"
    assert main(["generate", "tinyworld:llm", question, "--prompt", "tinyworld_math", "--max-new-tokens", "80"]) == 0
    assert "The answer is 14." in capsys.readouterr().out
    merged = [
        "generate",
        str(stages / "mindmerger.augmentation" / "model"),
        question,
        "--max-new-tokens",
        "8",
        "--json",
    ]
    assert main(merged) == 0
    assert {"question", "response", "log_probability"} <= set(json.loads(capsys.readouterr().out))
    proxy = [
        "generate",
        "tinyworld:llm",
        question,
        "--expert",
        str(stages / "question_alignment.response" / "model"),
        "--antiexpert",
        "tinyworld:llm",
        "--max-new-tokens",
        "8",
        "--prompt",
        "tinyworld_math",
    ]
    assert main([*proxy, "--alpha", "0"]) == 0
    plain = capsys.readouterr().out
    assert main(["generate", "tinyworld:llm", question, "--prompt", "tinyworld_math", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == plain
    assert main([*proxy[:4], "tinyworld:llm", *proxy[5:]]) == 2
    assert "expert and anti-expert are the same model" in capsys.readouterr().err


def test_a_moved_run_still_loads(finished, tmp_path, capsys):
    shutil.copytree(finished / "stages" / "multilingual_cot.tuning" / "model", tmp_path / "moved")
    assert main(["generate", str(tmp_path / "moved"), "hi", "--max-new-tokens", "3"]) == 0


def test_preview_shows_what_the_model_sees(capsys):
    assert main(["data", "preview", "configs/quickstart.yaml", "mindmerger.augmentation", "--rows", "2", "--json"]) == 0
    for example in json.loads(capsys.readouterr().out):
        kinds = [kind for kind, _ in example]
        assert kinds == ["bos", "encoder", "boundary", "prompt", "target"]
        texts = dict(example)
        assert texts["encoder"].removesuffix("</s>") in texts["prompt"] and texts["target"].endswith("</s>")
        assert texts["bos"] == "<s>" and texts["prompt"].endswith("\nA:")


def test_data_stats_and_overlap(tmp_path, capsys):
    assert (
        main(["data", "stats", "tinyworld", "--languages", "en,th", "--limit", "50", "--png", str(tmp_path / "x.png")])
        == 0
    )
    out = capsys.readouterr().out
    assert "en " in out and "th " in out and (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert (
        main(["data", "overlap", "--train", "tinyworld=", "--test", "tinyworld=", "--test-split", "train", "--json"])
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert len(found["exact"]) == found["test"] == 1000 and not found["near"]
    assert main(["data", "overlap", "--train", "tinyworld=", "--test", "tinyworld=", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] == []
    for threshold in ("0", "-1", "nan", "1.5"):
        assert main(["data", "overlap", "--train", "tinyworld=", "--test", "tinyworld=", "--threshold", threshold]) == 2
        assert "from 0.1 to 1" in capsys.readouterr().err


def test_texts_as_near_as_the_threshold_are_found():
    """Pairs with a similarity of exactly 0.8: a hundredth may be missed, the index itself being an approximation."""
    from mmscale.data.overlap import find_overlaps
    from mmscale.data.records import ParallelSentence

    generator = random.Random(3)
    letters = [
        "".join(generator.choices(ascii_lowercase, k=49)) for _ in range(200)
    ]  # 45 and 45 - 5 + 5 shingles: 40 of 50

    def records(texts):
        return [ParallelSentence(text, text, "en", "en", str(i)) for i, text in enumerate(texts)]

    _, near = find_overlaps(records(letters), records([text[:-5] + "12345" for text in letters]), 0.8)
    assert {round(one.similarity, 3) for one in near} == {0.8} and len(near) >= 196


def test_a_stage_is_evaluated_by_task_while_it_trains_and_keeps_the_best(tmp_path):
    from mmscale.training.metrics import read_metrics

    stage = "recipes.multilingual_cot.tuning"
    more = [
        f"{stage}.steps=4",
        f"{stage}.evaluate_every_steps=2",
        f"{stage}.evaluate_task=tinyworld",
        f"{stage}.evaluate_task_rows=3",
        f"{stage}.keep=best",
        f"{stage}.best_by=accuracy",
        f"{stage}.optimizer.learning_rate=1.0e-2",
        f"{stage}.optimizer.warmup_share=0",
    ]
    arguments = [a for a in command(tmp_path / "x", *more)[2:] if not a.startswith(f"{stage}.steps=2")]
    assert main(["train", "configs/quickstart.yaml", "multilingual_cot.tuning", *arguments]) == 0
    rows = read_metrics(tmp_path / "x" / "stages" / "multilingual_cot.tuning" / "metrics.jsonl")
    accuracy = {row["step"]: row["accuracy"] for row in rows if "accuracy" in row}
    assert set(accuracy) == {2, 4} and all(0 <= value <= 1 for value in accuracy.values())


def test_scores_alone_train_and_ask_nothing(tmp_path, capsys):
    assert main(["run", "configs/quickstart.yaml", f"output_dir={tmp_path}", "--scores"]) == 2
    assert "Question alignment: translation is not trained: run it first" in capsys.readouterr().err.replace("\n", " ")
    nothing = ["methods=[]", "proxy=null", "languages=[sw]", "evaluation.tasks.tinyworld.data.limit_per_language=2"]
    assert main(["run", "configs/quickstart.yaml", f"output_dir={tmp_path}", *nothing, "--scores"]) == 2
    assert "Base has not answered all of its tasks" in capsys.readouterr().err.replace("\n", " ")
    assert not any(path.read_text() for path in tmp_path.rglob("*.jsonl")) and not (tmp_path / "scores.json").exists()
