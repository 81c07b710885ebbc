"""MindMerger-Hard and translate-test as a run: who translates, what is asked, what is trained, and what is refused before."""

from __future__ import annotations

import json

import pytest

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.errors import UserError
from mmscale.planning.dry_run import dry_run
from mmscale.runs.run import asked_prompts, check
from mmscale.translation import questions
from tests.distributed import ranks
from tests.translation.tiny import nllb

SMALL = [
    "proxy=null",
    "evaluation.base=false",
    "languages=[en,sw]",
    "evaluation.tasks.tinyworld.data.limit_per_language=3",
]
HARD = "methods=[hard,alone]"
VARIANTS = (
    "variants={hard: {method: mindmerger_hard, prompt: tinyworld_hard}, "
    "alone: {method: translate_test, prompt: tinyworld_translate_test}}"
)
SHORT = "max_source_tokens: 64, max_new_tokens: 8"


def run_settings(folder, translator, *more):
    named = f"evaluation.tasks.tinyworld.data.translation={{path: {translator}, cache: {folder / 'cache'}, {SHORT}}}"
    asked = "evaluation.tasks.tinyworld.prompt=null"
    return ["configs/quickstart.yaml", f"output_dir={folder / 'run'}", *SMALL, HARD, VARIANTS, named, asked, *more]


STAGE = "recipes.question_alignment.response"


def training_settings(folder, translator):
    """A stage that trains on questions with their translations."""
    translation = f"{{path: {translator}, cache: {folder / 'cache'}, {SHORT}}}"
    data = f"{{source: tinyworld, languages: [en, sw], limit_per_language: 4, translation: {translation}}}"
    train = [f"{STAGE}.data=[{data}]", f"{STAGE}.prompt=tinyworld_hard", f"{STAGE}.steps=2", f"{STAGE}.epochs=null"]
    train += [f"{STAGE}.packing.global_batch_size=4", "variants={tuned: {stages: [question_alignment.response]}}"]
    more = ["methods=[tuned]", "evaluation.tasks={}"]
    return ["configs/quickstart.yaml", f"output_dir={folder / 'run'}", *SMALL[:3], *train, *more]


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return nllb(tmp_path_factory.mktemp("nllb"))


def test_methods_that_train_nothing_ask_by_their_own_prompt(tmp_path, translator, capsys):
    name, *overrides = run_settings(tmp_path, translator)
    run = load_run(name, overrides)
    assert [(one.title, one.paper, one.stages) for one in check(run)] == [
        ("Hard", "arXiv 2405.17386", ()),
        ("Alone", "arXiv 2210.03057", ()),
    ]
    assert asked_prompts(run) == {"tinyworld_hard", "tinyworld_translate_test"}
    task = dry_run(run)["tasks"]["tinyworld"]
    assert task["translator"] == str(translator) and task["problems"] == {"en": 3, "sw": 3}
    with pytest.raises(UserError, match="no code for language 'te'"):
        dry_run(load_run(name, [*overrides, "languages=[en,te]"]))
    missing = [*overrides, "evaluation.tasks.tinyworld.data.translation.path=/no/such"]
    assert (
        "not found: model folder not found: /no/such"
        in dry_run(load_run(name, missing))["tasks"]["tinyworld"]["translator"]
    )
    untranslated = [*overrides, "evaluation.tasks.tinyworld.data.translation=null"]
    with pytest.raises(
        UserError, match="evaluation.tasks.tinyworld: prompt tinyworld_hard reads a translation of the question"
    ):
        check(load_run(name, untranslated))

    evaluate = [
        "evaluate",
        "tinyworld:llm",
        "--task",
        "tinyworld",
        "--languages",
        "sw",
        "--limit",
        "2",
        "--output",
        str(tmp_path),
    ]
    assert main([*evaluate, "--prompt", "tinyworld_hard"]) == 2
    assert "prompt tinyworld_hard reads a translation of the question, and there is none" in capsys.readouterr().err
    assert main([*evaluate, "--prompt", "tinyworld_math", "--translator", str(translator)]) == 2
    assert "--translator is of no use with prompt tinyworld_math, which shows no translation" in capsys.readouterr().err
    named = ["--prompt", "tinyworld_translate_test", "--max-new-tokens", "4", "--translator"]
    assert main([*evaluate, *named, f"{{path: {translator}, cache: {tmp_path / 'c'}, {SHORT}}}"]) == 0
    assert "2 texts translated by" in capsys.readouterr().err


def test_a_dry_run_says_what_a_stage_lacks_of_its_translations(tmp_path, translator):
    def missing(*overrides):
        name, *settings = training_settings(tmp_path, translator)
        return dry_run(load_run(name, [*settings, *overrides]))["stages"]["tuned.response"]["missing"]

    assert missing() == f"4 of 4 texts are not translated by {translator} yet"
    assert "model folder not found: /no/such" in missing(f"{STAGE}.data.0.translation.path=/no/such")
    with pytest.raises(
        UserError, match="tuned.response: data set tinyworld: prompt tinyworld_hard reads a translation"
    ):
        missing(f"{STAGE}.data.0.translation=null")


@pytest.mark.slow
def test_a_run_asks_in_translation_and_trains_on_it(tmp_path, translator, capsys, monkeypatch):
    settings = run_settings(tmp_path, translator)
    assert main(["run", *settings]) == 0
    folder, said = tmp_path / "run", capsys.readouterr().err
    assert "Hard (sw): 3 texts translated by" in said and "Alone (sw): 3 translations taken from" in said
    assert "Hard (en): 3 questions are in en already" in said
    scores = json.loads((folder / "scores.json").read_text())
    assert {name: entry["title"] for name, entry in scores.items()} == {"hard": "Hard", "alone": "Alone"}
    answers = {
        name: [
            json.loads(line) for line in (folder / "predictions" / name / "tinyworld/sw.jsonl").read_text().splitlines()
        ]
        for name in ("hard", "alone")
    }
    assert [row["question"] for row in answers["hard"]] == [row["question"] for row in answers["alone"]]
    assert [row["response"] for row in answers["hard"]] != [row["response"] for row in answers["alone"]]

    again = [*settings, f"output_dir={tmp_path / 'two'}"]
    again.append(f"evaluation.tasks.tinyworld.data.translation.cache={tmp_path / 'cache2'}")
    ranks.run(2, ["-m", "mmscale", "run", *again])
    for file in sorted((folder / "predictions").rglob("*.jsonl")):
        assert (tmp_path / "two" / file.relative_to(folder)).read_bytes() == file.read_bytes(), "two ranks are one"

    monkeypatch.setattr(questions, "load_translator", None)
    assert main(["run", *settings]) == 0 and main(["run", *settings, "--scores"]) == 0
    assert json.loads((folder / "scores.json").read_text()) == scores, "nothing is asked or translated again"
    monkeypatch.undo()
    nllb(translator, seed=3)
    assert main(["run", *settings]) == 2
    assert "answers of another model than the one that is at" in capsys.readouterr().err
    nllb(translator)

    command = training_settings(tmp_path / "tuned", translator)
    assert main(["data", "preview", command[0], "tuned.response", *command[1:], "--rows", "8", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    prompts = [text for example in shown for kind, text in example if kind == "prompt"]
    assert sum("English translation:" in text for text in prompts) == 4 and len(prompts) == 8
    assert main(["train", command[0], "tuned.response", *command[1:]]) == 0
    handed = json.loads((tmp_path / "tuned/run/stages/tuned.response/model/mmscale.json").read_text())
    assert handed["prompt"] == "tinyworld_hard"
    assert main(["train", command[0], "tuned.response", *command[1:], f"{STAGE}.data.0.translation=null"]) == 2
    assert "prompt tinyworld_hard reads a translation of the question, and there is none" in capsys.readouterr().err
