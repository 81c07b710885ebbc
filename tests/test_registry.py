"""Everything with a name: listed, found, added from outside the package, and told in a sentence where that fails."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import ElectraConfig, ElectraModel

from mmscale import registry
from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.config.training import StageConfig
from mmscale.errors import UserError
from mmscale.methods.base import Method, StageSpec
from mmscale.runs.stage import Stage
from mmscale.training.metrics import read_metrics

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

OUTSIDE = Path(__file__).parent / "outside"
EXTENDING = Path(__file__).parents[1] / "docs" / "extending.md"
DECLARED = tomllib.loads((OUTSIDE / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]


def install(folder: Path, package: str, points: dict[str, dict[str, str]]) -> None:
    """What pip writes of a package's entry points: group -> name -> target."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [line for group in points for line in (f"[{group}]", *(f"{n} = {t}" for n, t in points[group].items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")


def forget() -> None:
    importlib.invalidate_caches()
    registry.get.cache_clear()
    registry._added.cache_clear()


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder that Python looks for packages in; `install` into it, then `forget`."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    monkeypatch.undo()
    forget()


@pytest.fixture
def outside(site, monkeypatch):
    """The package of tests/outside, installed as its pyproject.toml says."""
    install(site, "mmscale-outside", DECLARED)
    monkeypatch.syspath_prepend(str(OUTSIDE))
    forget()


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_built_in_name_is_what_its_kind_says_and_tells_what_it_is(kind):
    for entry in registry.entries(kind):
        if entry.package is not None:
            continue
        value, wanted = registry.get(kind, entry.name), registry.KINDS[kind].type
        assert isinstance(value, registry._import(wanted)) if wanted else callable(value)
        assert getattr(value, "name", entry.name) == entry.name
        assert len(entry.summary) > 10 and "\n" not in entry.summary and entry.problem is None


def test_the_list_is_json_and_imports_nothing_heavy():
    code = (
        "import sys; from mmscale.cli.main import main; main(['list', '--json']); "
        "print([name for name in ('torch', 'transformers', 'numpy', 'pyarrow') if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)
    assert {row["kind"] for row in rows} == set(registry.KINDS) and all(row["name"] and row["summary"] for row in rows)
    assert done.stderr.strip() == "[]"


def test_one_kind_is_listed_alone_and_an_unknown_one_refused(capsys):
    assert main(["list", "rules", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == registry.names("rules")
    assert main(["list", "rule"]) == 2
    assert "did you mean 'rules'?" in capsys.readouterr().err


def test_help_names_what_there_is(capsys):
    assert main(["evaluate", "--help"]) == 0
    words = set(re.findall(r"[a-z_0-9]+", capsys.readouterr().out))
    assert words >= {name for kind in ("rules", "tasks", "prompts", "sources") for name in registry.names(kind)}


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Riddles in two languages and a tiny ELECTRA, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "riddles").mkdir()
    for code, text in (
        ("en", "What has keys and no locks, number {}?"),
        ("sw", "Nyumba yangu haina mlango, namba {}?"),
    ):
        rows = [{"riddle": text.format(i), "solution": "piano" if code == "en" else "yai"} for i in range(6)]
        rows.append({"riddle": "What?", "solution": "nothing"})
        (tmp_path / "riddles" / f"{code}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    torch.manual_seed(3)
    tokenizer = Path(str(resources.files("mmscale.tinyworld"))) / "artifacts" / "encoder"
    size = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    shape = {"hidden_size": 16, "embedding_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ElectraModel(ElectraConfig(vocab_size=size, num_attention_heads=2, **shape)).save_pretrained(tmp_path / "electra")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokenizer / name, tmp_path / "electra" / name)


def test_another_package_adds_one_of_each_and_a_run_uses_them(outside, world, tmp_path, capsys):
    """A method, its source, prompt, filter and encoder family train, a tracker is told; a task asks by its prompt and scores
    by its rule."""
    assert main(["run", str(OUTSIDE / "run.yaml"), "output_dir=run", "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["reading_in"]["title"] == "Reading in" and scores["base"]["tasks"]["riddles"]["rule"] == "last_word"
    assert scores["reading_in"]["tasks"]["riddles"]["languages"]["sw"]["n"] == 6, "its filter leaves one row out"
    assert (
        json.loads((tmp_path / "run/stages/reading_in.joining/model/mmscale.json").read_text())["prompt"] == "dialogue"
    )
    stage = tmp_path / "run/stages/reading_in.joining"
    with open(stage / "metrics.csv", newline="") as table:
        told = [(int(step), name, float(value)) for step, name, value in csv.reader(table)]
    kept = [(row["step"], name, row[name]) for row in read_metrics(stage / "metrics.jsonl") for name in row]
    assert told == [row for row in kept if row[1] != "step"] and {row[0] for row in told} == {1, 2}
    assert not (stage / "tensorboard").exists(), "one that was not asked for"
    folder = stage / "model"
    assert json.loads((folder / "mmscale.json").read_text())["connector"] == "one_layer"
    assert (folder / "connector.safetensors").is_file() and not (folder / "mapping.safetensors").exists()
    tuned = tmp_path / "run/stages/reading_in.tuning/model"
    assert (tuned / "connector.safetensors").read_bytes() == (folder / "connector.safetensors").read_bytes()
    for model in (folder, tuned):
        assert main(["generate", str(model), "What has keys?", "--max-new-tokens", "2"]) == 0, "it is read again"
    assert main(["run", str(OUTSIDE / "run.yaml"), "output_dir=run", "connector=mlp"]) == 2
    assert 'connector was "one_layer", now "mlp"' in capsys.readouterr().err.replace("\n", " ")
    capsys.readouterr()
    alone = ["output_dir=alone", "methods=[]", "evaluation.answerer=parrot"]
    assert main(["run", str(OUTSIDE / "run.yaml"), *alone, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["base"]["tasks"]["riddles"]["languages"]["en"]["accuracy"] == 0
    assert json.loads((tmp_path / "alone/predictions/base/riddles/en.jsonl").open().readline())["response"] == "0?"
    assert main(["run", str(OUTSIDE / "run.yaml"), *alone, "--scores", "--json"]) == 0, "and only counted"
    capsys.readouterr()
    assert main(["data", "stats", "riddles", "riddles", "--languages", "en", "--list", "one_word_question"]) == 0
    assert capsys.readouterr().out.strip().endswith("en.jsonl:7")
    assert main(["evaluate", "tinyworld:llm", "--task", "riddles", "--path", "riddles", "--limit", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["en"]["n"] == 1
    (tmp_path / "answers.jsonl").write_text('{"question": "q", "response": "It is a Piano.", "answer": "piano"}\n')
    assert main(["evaluate", "--predictions", "answers.jsonl", "--rule", "last_word", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0


def test_a_stage_before_the_connector_is_trained_reads_no_encoder(world):
    """Its language model would learn behind random numbers."""
    method = Method(
        "backwards",
        "",
        "",
        (StageSpec("tuning", "alpaca", ("language_model",)), StageSpec("joining", "alpaca", ("connector",))),
    )
    run = load_run("configs/quickstart.yaml", [])
    recipes = {"backwards": {"tuning": StageConfig(steps=1), "joining": StageConfig(steps=1)}}
    tuning, joining = (Stage(run.model_copy(update={"recipes": recipes}), method, spec) for spec in method.stages)
    tuning.require_trainable()
    assert tuning.encoder is None and joining.encoder == run.encoder


@pytest.mark.parametrize(
    "note", [None, '["one_layer", 3, 4]', '["one_layer", 1000000, 1000000]', '["mlp", 16, 8]', '["one_layer", 0, 8]']
)
def test_a_connector_of_other_widths_or_kind_is_refused(outside, tmp_path, note):
    kind, path = registry.get("connectors", "one_layer"), tmp_path / "connector.safetensors"
    made = kind.build(16, 8)
    kind.write(made, path)
    assert torch.equal(kind.read(tmp_path).weight, made.weight)
    save_file(dict(made.state_dict()), path, metadata=note and {"connector": note})
    with pytest.raises(UserError, match=r"connector\.safetensors"):
        kind.read(path)


def test_what_another_package_adds_is_listed_with_its_name(outside, capsys):
    for group in DECLARED:
        assert main(["list", group.removeprefix("mmscale."), "--json"]) == 0
        row = json.loads(capsys.readouterr().out)[-1]
        assert row["name"] in DECLARED[group] and row["package"] == "mmscale-outside" and len(row["summary"]) > 10


def test_a_broken_entry_point_is_told_when_it_is_asked_for_and_marked_in_the_list(site, capsys):
    (site / "half_done.py").write_text("import nowhere_to_be_found\n")
    points = {"half": "half_done:RULE", "other": "json:loads"}
    broken = {"mmscale.rules": points, "mmscale.tasks": points}
    install(site, "half-done", broken)
    forget()
    assert main(["list", "rules"]) == 0
    listed = capsys.readouterr().out
    assert "half     " in listed and listed.count("broken: ") == 2 and "exact" in listed
    assert registry.get("rules", "exact").extract(" a ", "en") == "a"
    with pytest.raises(UserError, match="rule 'half' of package 'half-done' cannot be loaded .*nowhere_to_be_found"):
        registry.get("rules", "half")
    task = "evaluation.tasks.tinyworld.task"
    assert main(["config", "show", "configs/quickstart.yaml", f"{task}=half", "threads=x"]) == 2
    assert (
        "task 'half' of package 'half-done' cannot be loaded" in (told := capsys.readouterr().err)
        and "threads: " in told
    )
    with pytest.raises(UserError, match="rule 'other' of package 'half-done' is a function and should be"):
        registry.get("rules", "other")


def test_a_name_that_two_packages_claim_is_refused_and_the_others_work(outside, site):
    install(site, "rival", {"mmscale.rules": {"exact": "mmscale_outside.rule:RULE", "last_word": "json:loads"}})
    forget()
    with pytest.raises(UserError, match="rule 'exact' is registered twice, by mmscale itself and by package 'rival'"):
        registry.get("rules", "exact")
    with pytest.raises(UserError, match="'last_word' is registered twice, by package 'rival' and by package 'mmscale-"):
        registry.get("rules", "last_word")
    assert registry.get("rules", "mcot").extract("so 5", "en") == "5"
    problems = {entry.name: entry.problem for entry in registry.entries("rules")}
    assert "registered twice" in problems["exact"] and problems["mcot"] is None


def test_the_page_on_extending_shows_the_files_of_the_package():
    """```python blocks of docs/extending.md, each after the name of the file it is."""
    shown = dict(re.findall(r"`tests/outside/([\w./]+)`\n+```\w+\n(.*?)```", EXTENDING.read_text("utf-8"), re.DOTALL))
    files = {file for file in OUTSIDE.rglob("*") if file.suffix in (".py", ".toml", ".yaml") and file.stat().st_size}
    assert set(shown) == {str(file.relative_to(OUTSIDE)) for file in files}
    for name, text in shown.items():
        assert text == (OUTSIDE / name).read_text(encoding="utf-8"), name
