"""The configurations of choice tasks train end to end, on the embedded models and a few rows of our own in MindMerger's layout."""

from __future__ import annotations

import json

import pytest

from mmscale.cli.main import main

LANGUAGES = ("en", "sw")


def x_csqa(folder):
    for code in LANGUAGES:
        rows = [
            {
                "id": f"q{i}",
                "question": {
                    "stem": f"Anna has {i} books. How many books?",
                    "choices": [{"label": label, "text": str(i + k)} for k, label in enumerate("ABCDE")],
                },
                "answerKey": "ABCDE"[i % 5],
            }
            for i in range(12)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        for name in (f"query_translation/x-csqa/train_{code}.jsonl", f"evaluation/x-csqa/{code}/dev.jsonl"):
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    pairs = folder / "bilingual_pairs/en-sw"
    pairs.mkdir(parents=True)
    for code in LANGUAGES:
        (pairs / f"train_100k.{code}").write_text("Anna has 2 books.\n" * 12)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method,name", [("mindmerger", "llamax-7b-x-csqa-mt5-xl"), ("question_alignment", "llama2-7b-x-csqa")]
)
def test_x_csqa_trains_and_is_scored_both_ways(tmp_path, capsys, method, name):
    x_csqa(tmp_path)
    first, second = {"mindmerger": ("mapping", "augmentation"), "question_alignment": ("translation", "response")}[
        method
    ]
    settings = {
        "output_dir": tmp_path / "run",
        "languages": "[en, sw]",
        "language_model": "{path: 'tinyworld:llm'}",
        "parallel.zero.stage": 0,
        "evaluation.tasks": f"{{xcsqa: {{data: {{path: {tmp_path}/evaluation}}}}, weighed: {{task: xcsqa, scoring: log_likelihood, "
        f"data: {{path: {tmp_path}/evaluation}}}}}}",
    }
    if method == "mindmerger":
        settings["encoder"] = "{path: 'tinyworld:encoder', family: t5}"
    for stage in (first, second):
        key = f"recipes.{method}.{stage}"
        source = "bilingual_pairs" if stage == "mapping" else "query_translation"
        settings |= {
            f"{key}.data.0.path": tmp_path / source,
            f"{key}.packing.global_batch_size": 4,
            f"{key}.epochs": "null",
        }
        settings |= {f"{key}.steps": 2, f"{key}.precision": "float32", f"{key}.dev_examples": 0, f"{key}.keep": "last"}
    for stage in {"mindmerger": (first,), "question_alignment": (first,)}[method]:
        settings[f"recipes.{method}.{stage}.data.0.languages"] = "[sw]"
    words = [f"{key}={value}" for key, value in settings.items()]
    assert main(["run", f"configs/{method}/{name}.yaml", *words, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    for model in ("base", method):
        tasks = scores[model]["tasks"]
        assert {code: entry["n"] for code, entry in tasks["xcsqa"]["languages"].items()} == {"en": 12, "sw": 12}
        assert set(tasks["weighed"]["languages"]["sw"]["by_normalization"]) == {"none", "characters", "bytes", "tokens"}
    rows = (tmp_path / "run/predictions" / method / "weighed/sw.jsonl").read_text().splitlines()
    assert all([option["answer"] for option in json.loads(row)["options"]] == list("ABCDE") for row in rows)
