"""Benchmarks by name: what they read on the hub, how a configuration names them, and rows that are too few."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from mmscale import registry
from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.data.loading import load_records
from mmscale.data.sources import hub
from mmscale.errors import UserError

CHOICES = {"label": ["A", "B"], "text": ["bank", "town"]}
HUB = {
    "mgsm": ("juletxara/mgsm", "mgsm_sw.tsv", ["Je, 1 + 1?\t2"], "2"),
    "msvamp": ("Mathoctopus/MSVAMP", "test_Swahili.json", [{"m_query": "Je?", "equation": "", "response": "8.0"}], "8"),
    "gsm8k": ("openai/gsm8k", "main/test-00000-of-00001.parquet", [{"question": "Q", "answer": "1\n#### 1"}], "1"),
    "svamp": (
        "ChilleD/SVAMP",
        "data/{test,train}-00000-of-00001-c0ffee.parquet",
        [{"Body": "He has 2 packs", "Question": "How many?", "Answer": "2.0"}],
        "2",
    ),
    "afrimgsm": (
        "masakhane/afrimgsm",
        "data/swa/test.tsv",
        ["question\tanswer\tanswer_number", '"Je, ""x""?"\t\t3'],
        "3",
    ),
    "afrixnli": ("masakhane/afrixnli", "data/swa/test.tsv", ["premise\thypothesis\tlabel", "A\tB\t2"], "contradiction"),
    "xcsqa": (
        "INK-USC/xcsr",
        "X-CSQA-sw/validation-00000-of-00001.parquet",
        [{"id": "1", "lang": "sw", "question": {"stem": "Where?", "choices": CHOICES}, "answerKey": "B"}],
        "B",
    ),
    "xnli": (
        "facebook/xnli",
        "sw/test-00000-of-00001.parquet",
        [{"premise": "A", "hypothesis": "B", "label": 1}],
        "neutral",
    ),
    "xcopa": (
        "cambridgeltl/xcopa",
        "sw/test-00000-of-00001.parquet",
        [{"premise": "P", "choice1": "a", "choice2": "b", "question": "cause", "label": 1, "idx": 0}],
        "2",
    ),
}
"""task -> (data set, file of its Swahili rows or its only ones as the hub has it, rows, gold)"""


def put(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, of which nothing can be fetched."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.local_folder.cache_clear()
    yield tmp_path
    hub.local_folder.cache_clear()


@pytest.mark.parametrize("name", HUB)
def test_a_task_by_name_reads_what_the_hub_has(cache, name):
    data_set, file, rows, gold = HUB[name]
    code = "en" if name in ("gsm8k", "svamp") else "sw"
    task, repository = registry.get("tasks", name), cache / f"datasets--{data_set.replace('/', '--')}"
    with pytest.raises(UserError, match=f"cannot fetch data set {data_set} from the hub .*give its folder"):
        load_records(task.data, [code])
    hub.local_folder.cache_clear()
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc123")
    parts = ("test", "train") if "{test,train}" in file else ("",)
    for part in parts:
        put(repository / "snapshots" / "abc123" / file.replace("{test,train}", part), rows)
    records, account = load_records(task.data, [code])
    assert [(record.language, record.gold) for record in records] == [(code, gold)] * len(parts)
    assert not account.bad and task.rows[task.data.split] > len(records)
    if name == "svamp":
        assert records[0].text == "He has 2 packs. How many?"
    if name == "afrimgsm":
        assert records[0].text == 'Je, "x"?', "quotes of pandas"


def test_every_task_is_one_of_the_hub_and_told_in_a_line():
    assert set(registry.names("tasks")) == {*HUB, "tinyworld"}
    assert all(entry.summary and "\n" not in entry.summary for entry in registry.entries("tasks"))


RUN = """
name: named
languages: [en]
language_model: {{path: "tinyworld:llm"}}
methods: []
evaluation:
  tasks: {tasks}
"""


def test_a_run_names_its_tasks_and_lays_settings_over_them(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        RUN.format(tasks="[mgsm, {xcsqa: {data: {path: here}, generation: {max_new_tokens: 3}}}, {task: xnli}]")
    )
    tasks = load_run(
        str(file), ["evaluation.tasks.mgsm.data.path=there", "evaluation.tasks.xnli.rule=default"]
    ).evaluation.tasks
    assert list(tasks) == ["mgsm", "xcsqa", "xnli"] and tasks["mgsm"].data.path == "there"
    assert (tasks["xcsqa"].data.path, tasks["xcsqa"].data.split, tasks["xcsqa"].rule) == ("here", "dev", "exact")
    assert (tasks["xcsqa"].generation.max_new_tokens, tasks["xnli"].rule) == (3, "default")
    file.write_text(RUN.format(tasks="{mgsm: {data: {path: here}}, mine: {data: {source: gsm8k}}}"))
    tasks = load_run(str(file)).evaluation.tasks
    assert (
        tasks["mgsm"].data.source == "mgsm"
        and tasks["mgsm"].rows == {"test": 250}
        and tasks["mine"].data.split == "train"
    )


@pytest.mark.parametrize(
    "tasks,told",
    [
        ("[mgsm, mgsm]", "names 'mgsm' twice"),
        ("[5]", "holds 5, which names no task"),
        ("[mgms]", r"run.yaml:7: evaluation.tasks.mgms.task: unknown task 'mgms': did you mean 'mgsm'\?"),
        ("[{mgsm: {data: {split: [1]}}}]", r"run.yaml:7: evaluation.tasks.mgsm.data.split"),
    ],
)
def test_a_list_of_tasks_that_names_none_is_told_with_its_line(tmp_path, tasks, told):
    (tmp_path / "run.yaml").write_text(RUN.format(tasks=tasks))
    with pytest.raises(UserError, match=told):
        load_run(str(tmp_path / "run.yaml"))


def test_fewer_rows_than_were_published_are_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "mgsm_en.tsv", ["What is 1 + 1?\t2", "What is 2 + 2?\t4"])
    command = ["evaluate", "tinyworld:llm", "--task", "mgsm", "--data", ".", "--prompt", "tinyworld_math"]
    command += ["--languages", "en", "--max-new-tokens", "2"]
    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["en"]["n"] == 2
    assert "mgsm (en): . has 2 readable rows, fewer than the 250 that were published" in " ".join(shown.err.split())
    assert main([*command, "--limit", "1", "--output", "first"]) == 0
    assert "published" not in capsys.readouterr().err, "a limit was asked for"
