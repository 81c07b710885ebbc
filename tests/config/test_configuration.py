"""A configuration explains itself: its schema, where each value comes from, every mistake at once, every key on a page."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import jsonschema_rs
import pytest

from mmscale.cli.main import main
from mmscale.config.cluster import ClusterConfig
from mmscale.config.fields import walk
from mmscale.config.page import page
from mmscale.config.run import RunConfig, load_run
from mmscale.config.usual_names import USUAL_NAMES
from mmscale.errors import UserError
from mmscale.storage.reading import read_yaml

CONFIGS = Path(str(resources.files("mmscale.configs")))
PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
CHILD = """extends: parent.yaml
seed: 5
evaluation:
  tasks:
    quick: {task: tinyworld, data: {limit_per_language: 3}}
"""
PARENT = """name: parent
seed: 4
languages: [en, sw]

language_model:
  path: tinyworld:llm
"""
WRONG = """name: wrong
seed: many
language_model: {path: "tinyworld:llm", dtypes: float32}
methods: [mindmerger, mindmarger]
encoder: {path: "tinyworld:encoder"}
recipes:
  mindmerger:
    mapping:
      data:
        - {source: tinywurld}
      prompt: mappin
      steps: 1
    augmentation:
      data:
        - {source: tinyworld}
      evaluate_task: tasc
      steps: 1
      evaluate_every_steps: 1
    augmantation: {steps: 1}
evaluation:
  tasks:
    task: {data: {source: tinyworld}, rule: exakt}
"""


@pytest.fixture
def schemas(capsys):
    def schema(of: str) -> jsonschema_rs.Validator:
        assert main(["config", "schema", of]) == 0
        return jsonschema_rs.validator_for(json.loads(capsys.readouterr().out))

    return {of: schema(of) for of in ("run", "cluster", "corpus")}


def test_every_shipped_configuration_passes_its_schema(schemas):
    files = sorted(file for file in CONFIGS.rglob("*.yaml") if file.parent.name != "tasks")
    assert len(files) > 15
    for file in files:
        found = schemas[file.parent.name if file.parent.name in schemas else "run"].iter_errors(read_yaml(file))
        assert [f"{file.name}: {error.message}" for error in found] == []


def test_the_schema_refuses_what_is_no_configuration_and_describes_what_is(schemas, capsys):
    good = read_yaml(CONFIGS / "quickstart.yaml")
    assert schemas["run"].is_valid(good) and not schemas["run"].is_valid({"seed": 1})
    for wrong in ({"sed": 1}, {"methods": ["mindmarger"]}, {"recipes": {"mindmerger": {"maping": {}}}}, {"seed": "x"}):
        assert not schemas["run"].is_valid({**good, **wrong}), wrong
    assert main(["config", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema["properties"]["seed"]["description"] and schema["properties"]["extends"]["type"] == "string"
    assert main(["config", "schema", "clusters"]) == 2


@pytest.mark.parametrize("root", [RunConfig, ClusterConfig])
def test_every_key_is_described(root):
    bare = [".".join(map(str, path)) for path, field in walk(root) if not (field.description or "").strip()]
    assert bare == []
    assert [path for path, field in walk(root) if (field.description or "").startswith("Of ")] == []


def test_the_page_of_every_key_is_what_the_classes_say():
    assert PAGE.read_text(encoding="utf-8") == page(), "run: mmscale config docs > docs/configuration.md"


@pytest.fixture
def child(tmp_path):
    (tmp_path / "parent.yaml").write_text(PARENT, encoding="utf-8")
    (tmp_path / "child.yaml").write_text(CHILD, encoding="utf-8")
    return tmp_path / "child.yaml"


def test_each_value_is_shown_with_where_it_comes_from(child, capsys):
    assert main(["config", "show", str(child), "encoder.path=x", "threads=2", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    parent = child.with_name("parent.yaml")
    expected = {
        "name": ("parent", f"{parent}:1"),
        "seed": (5, f"{child}:2"),
        "languages": (["en", "sw"], f"{parent}:3"),
        "language_model.path": ("tinyworld:llm", f"{parent}:6"),
        "language_model.dtype": ("float32", "default"),
        "encoder.path": ("x", "command line"),
        "threads": (2, "command line"),
        "evaluation.tasks.quick.data.limit_per_language": (3, f"{child}:5"),
        "evaluation.tasks.quick.data.source": ("tinyworld", "task tinyworld"),
        "evaluation.tasks.quick.generation.max_new_tokens": (80, "task tinyworld"),
        "evaluation.tasks.quick.rule": ("default", "default"),
    }
    assert {key: (shown[key]["value"], shown[key]["from"]) for key in expected} == expected


@pytest.mark.parametrize("name", ["configs/quickstart.yaml", "configs/mindmerger/llama2-70b-mt5-xl.yaml"])
def test_what_is_shown_reads_back_as_the_same_configuration(name, tmp_path, capsys):
    odd = ["evaluation.tasks.t={task: tinyworld, generation: {stop: [\"\\n\", '# x', 'no']}}", "name='a: #b'"]
    assert main(["config", "show", name, *odd]) == 0
    (tmp_path / "shown.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_run(str(tmp_path / "shown.yaml")) == load_run(name, odd)


def test_every_mistake_is_told_at_once_with_file_line_and_key(tmp_path, capsys):
    file = tmp_path / "wrong.yaml"
    file.write_text(WRONG, encoding="utf-8")
    assert main(["run", str(file), "--dry-run", "thread=1"]) == 2
    lines = capsys.readouterr().err.removeprefix("mmscale: ").splitlines()
    expected = (
        f"{file}:2: seed: input should be a valid integer",
        f"{file}:3: language_model.dtypes: unknown key 'dtypes': did you mean 'dtype'?",
        f"{file}:4: methods.1: unknown method 'mindmarger': did you mean 'mindmerger'?",
        f"{file}:10: recipes.mindmerger.mapping.data.0.source: unknown data source 'tinywurld': did you mean 'tinyworld'?",
        f"{file}:11: recipes.mindmerger.mapping.prompt: unknown prompt 'mappin': did you mean 'mapping'?",
        f"{file}:16: recipes.mindmerger.augmentation.evaluate_task: unknown task of this configuration 'tasc': did you mean",
        f"{file}:19: recipes.mindmerger.augmantation: unknown stage of mindmerger 'augmantation': did you mean 'augmentation'?",
        f"{file}:22: evaluation.tasks.task.rule: unknown rule 'exakt': did you mean 'exact'?",
        "command line: thread: unknown key 'thread': did you mean 'threads'?",
    )
    assert len(lines) == len(expected)
    for sentence in expected:
        assert sum(line.startswith(sentence) for line in lines) == 1, sentence


def test_a_mistake_in_the_extended_file_is_told_with_that_file(child, capsys):
    child.with_name("parent.yaml").write_text(PARENT + "  attentoin: auto\n", encoding="utf-8")
    assert main(["config", "show", str(child)]) == 2
    assert capsys.readouterr().err.startswith(
        f"mmscale: {child.with_name('parent.yaml')}:7: language_model.attentoin: "
    )


@pytest.mark.parametrize(
    "key,ours",
    [
        ("batch_size", "recipes.METHOD.STAGE.packing.global_batch_size"),
        ("per_device_train_batch_size", "recipes.METHOD.STAGE.packing.global_batch_size"),
        ("learning_rate", "recipes.METHOD.STAGE.optimizer.learning_rate"),
        ("recipes.mindmerger.mapping.learning_rate", "recipes.mindmerger.mapping.optimizer.learning_rate"),
        ("recipes.mindmerger.mapping.max_seq_length", "recipes.mindmerger.mapping.packing.max_joined_tokens"),
        ("num_train_epochs", "recipes.METHOD.STAGE.epochs"),
        ("evaluation.tasks.tinyworld.batch_size", "evaluation.tasks.tinyworld.generation.batch_size"),
        ("recipes.mindmerger.mapping.seed", "seed at the top level"),
        ("lora_r", "there is no LoRA here"),
        ("evaluation.precision", "nothing ever read it"),
    ],
)
def test_a_key_under_its_usual_name_is_answered_with_where_ours_is(key, ours, capsys):
    assert main(["config", "show", "configs/quickstart.yaml", f"{key}=bfloat16"]) == 2
    error = capsys.readouterr().err
    assert f"{key}: unknown key '{key.rsplit('.', 1)[-1]}': " in error and ours in error and error.count("\n") == 1


def test_every_usual_name_leads_to_a_key_there_is():
    known = {".".join(map(str, path)) for path, _ in walk(RunConfig)}
    assert {ours for ours, _ in USUAL_NAMES.values() if ours} <= known
    for name, (ours, note) in USUAL_NAMES.items():
        assert ours or note, name
        assert not any(key.rsplit(".", 1)[-1] == name and key == ours for key in known), f"{name} is our own name"


def test_run_files_of_version_0_1_still_load(tmp_path):
    """They hold evaluation.precision, which meant nothing."""
    old = tmp_path / "run.yaml"
    old.write_text(f"{PARENT}evaluation: {{precision: float32, base: false}}\n", encoding="utf-8")
    assert not load_run(str(old)).evaluation.base


def test_a_task_that_is_not_named_right_is_refused(child):
    with pytest.raises(UserError, match=r"child.yaml:5: evaluation.tasks.quick.task: unknown task 'tinywurld'"):
        child.write_text(CHILD.replace("task: tinyworld", "task: tinywurld"), encoding="utf-8")
        load_run(str(child))
