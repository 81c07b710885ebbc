"""What a stage hands on: hashed and checked, wherever the folder goes, and never able to grant itself anything."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.errors import UserError
from mmscale.models.assembly import ModelParts, read_parts
from mmscale.models.connectors import mlp
from mmscale.models.places import resolve_path
from mmscale.models.seal import require_unchanged
from mmscale.parallel.context import ParallelContext
from mmscale.runs.run import stages_up_to
from mmscale.runs.training import run_stage
from tests.flips import flips

HERE = ParallelContext(device=torch.device("cpu"))
QUICK = "configs/quickstart.yaml"
ASK = ["Ana ana vitabu 5.", "--language", "sw", "--max-new-tokens", "3", "--prompt", "tinyworld_math"]


def overrides(folder: Path, *more: str) -> list[str]:
    chosen = [f"output_dir={folder}", "languages=[en,sw]", "language_model.attention=packed_sdpa"]
    for stage in ("mindmerger.mapping", "mindmerger.augmentation", "question_alignment.translation"):
        chosen += [
            f"recipes.{stage}.steps=1",
            f"recipes.{stage}.data.0.limit_per_language=30",
            f"recipes.{stage}.data.0.languages=[sw]",
            f"recipes.{stage}.packing.global_batch_size=8",
        ]
    return [*chosen, *more]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The run directory after one stage of two methods."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    for stage in ("mindmerger.mapping", "question_alignment.translation"):
        assert main(["train", QUICK, stage, *overrides(folder)]) == 0
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def model_of(run: Path, stage: str) -> Path:
    return run / "stages" / stage / "model"


def test_every_flipped_bit_of_what_a_stage_handed_on_is_refused(trained):
    """Through the door that the next stage comes in by."""
    for name in ("mindmerger.mapping", "question_alignment.translation"):
        config = load_run(QUICK, overrides(trained))
        stage = stages_up_to(config, name)[-1]
        start = ModelParts(language_model=config.language_model, encoder=stage.encoder)
        run_stage(stage, start, HERE)
        for file in sorted(stage.model.iterdir()):
            for where in flips(file, 12):
                with pytest.raises(UserError):
                    run_stage(stage, start, HERE)
                    pytest.fail(f"{file.name}: the flip at {where} was not seen")
        taken = run_stage(stage, start, HERE).language_model
        assert taken.attention == "packed_sdpa", "this run's configuration says how this machine attends"


@pytest.mark.parametrize("name", ["mapping.safetensors", "mmscale.json", "fingerprint.json"])
def test_the_next_stage_and_whoever_asks_the_model_name_the_file(run, capsys, name):
    file = model_of(run, "mindmerger.mapping") / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))
    assert main(["train", QUICK, "mindmerger.augmentation", *overrides(run)]) == 2
    assert name in capsys.readouterr().err or name == "fingerprint.json"
    if name != "fingerprint.json":
        assert main(["generate", str(file.parent), *ASK]) == 2
        error = capsys.readouterr().err
        assert name in error and error.count("\n") == 1


def test_a_missing_and_a_foreign_file_are_refused(run, capsys):
    folder = model_of(run, "question_alignment.translation")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert main(["generate", str(folder), *ASK]) == 2
    assert "index.json is none of what its stage wrote" in capsys.readouterr().err
    (folder / "model.safetensors.index.json").unlink()
    (folder / "README.md").write_text("notes do no harm")
    assert main(["generate", str(folder), *ASK]) == 0
    (folder / "tokenizer.json").unlink()
    capsys.readouterr()
    assert main(["generate", str(folder), *ASK]) == 2
    assert "tokenizer.json is missing, which its stage wrote" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", "{}", '{"fingerprint": "x"}', '{"fingerprint": 1, "files": {"../x": "0"}}', "[" * 99999],
)
@pytest.mark.parametrize("name", ["mmscale.json", "fingerprint.json"])
def test_junk_is_one_sentence(run, capsys, name, content):
    folder = model_of(run, "mindmerger.mapping")
    (folder / name).write_text(content)
    for command in (["generate", str(folder), *ASK], ["train", QUICK, "mindmerger.augmentation", *overrides(run)]):
        assert main(command) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("mmscale: ") and name in error and len(error) < 600


def rewritten(folder: Path, **language_model) -> Path:
    """A folder from elsewhere, without a seal, whose mmscale.json says something else."""
    file = folder / "mmscale.json"
    values = json.loads(file.read_text())
    mapping = language_model.pop("mapping", values["mapping"])
    values["language_model"] |= language_model
    file.write_text(json.dumps({**values, "mapping": mapping}))
    (folder / "fingerprint.json").unlink()
    return folder


CODE = "open('{mark}', 'w').write('ran')\nfrom transformers import LlamaConfig, LlamaForCausalLM\nclass C(LlamaConfig):\n    model_type='own'\nclass M(LlamaForCausalLM):\n    config_class = C\n"


def test_a_folder_cannot_trust_its_own_code(run, tmp_path, capsys):
    folder = rewritten(model_of(run, "question_alignment.translation"), trust_remote_code=True)
    mark = tmp_path / "ran"
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(CODE.format(mark=mark))
    assert not read_parts(str(folder)).language_model.trust_remote_code
    assert main(["generate", str(folder), *ASK]) == 2
    assert "Python code of its own, which is not run" in capsys.readouterr().err and not mark.exists()
    main(["generate", str(folder), *ASK, "--trust-remote-code"])
    assert mark.exists(), "the user's flag may"


@pytest.mark.parametrize(
    "values",
    [
        {"mapping": "../mapping.safetensors"},
        {"mapping": "/etc/passwd"},
        {"mapping": None},
        {"path": "{folder}/../other"},
        {"path": "x{folder}/y"},
        {"dtype": "float99"},
        {"quantization": "gptq"},
        {"eos_token": 5},
        {"surprise": True},
    ],
)
def test_a_folder_says_nothing_that_it_may_not(run, capsys, values):
    folder = rewritten(model_of(run, "mindmerger.mapping"), **values)
    assert main(["generate", str(folder), *ASK]) == 2
    error = capsys.readouterr().err
    assert "mmscale.json does not describe a model" in error and error.count("\n") == 1


def test_how_this_machine_attends_is_not_the_folders_matter(run):
    folder = rewritten(model_of(run, "mindmerger.mapping"), attention="flash_attention_3")
    assert read_parts(str(folder)).language_model.attention == "auto"
    assert main(["generate", str(folder), *ASK]) == 0


def test_a_mapping_finds_its_models_wherever_it_goes(tmp_path, monkeypatch, capsys):
    """Trained with paths relative to the working directory, moved, and asked from another one."""
    work = tmp_path / "work"
    for part in ("llm", "encoder"):
        shutil.copytree(resolve_path(f"tinyworld:{part}"), work / "models" / part)
    monkeypatch.chdir(work)
    paths = ["language_model.path=models/llm", "encoder.path=models/encoder"]
    assert main(["train", QUICK, "mindmerger.mapping", *overrides(Path("run"), *paths)]) == 0
    (work / "run/stages/mindmerger.mapping/model").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["generate", "moved", *ASK]) == 0
    said = capsys.readouterr().out
    assert main(["convert", "moved", "everything", "--whole"]) == 0
    (tmp_path / "everything").rename(tmp_path / "elsewhere")
    shutil.rmtree(work)
    capsys.readouterr()
    assert main(["generate", "elsewhere", *ASK]) == 0
    assert capsys.readouterr().out == said
    assert main(["generate", "moved", *ASK]) == 2
    assert "model folder not found" in capsys.readouterr().err
    content = bytearray((tmp_path / "elsewhere/encoder/model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "elsewhere/encoder/model.safetensors").write_bytes(bytes(content))
    with pytest.raises(UserError, match="encoder/model.safetensors is not what its stage wrote"):
        require_unchanged(tmp_path / "elsewhere", HERE)


def test_another_model_at_the_path_of_a_mappings_own_is_refused(tmp_path, capsys):
    """Whoever asks, converts, trains the next stage or goes on with this one names the file that differs."""
    for part in ("llm", "encoder"):
        shutil.copytree(resolve_path(f"tinyworld:{part}"), tmp_path / part)
    paths = [f"language_model.path={tmp_path}/llm", f"encoder.path={tmp_path}/encoder"]
    paths += ["recipes.mindmerger.mapping.save_every_steps=1", "recipes.mindmerger.augmentation.save_every_steps=1"]
    settings = overrides(tmp_path / "run", *paths)
    assert main(["train", QUICK, "mindmerger.mapping", *settings]) == 0
    model = model_of(tmp_path / "run", "mindmerger.mapping")

    def refused(name: str, *commands: list[str]) -> None:
        for command in commands:
            capsys.readouterr()
            assert main(command) == 2, command
            error = capsys.readouterr().err
            assert "is not the model that the mapping was trained with" in error and name in error

    everywhere = [["generate", str(model), *ASK], ["convert", str(model), str(tmp_path / "whole"), "--whole"]]
    everywhere += [["train", QUICK, "mindmerger.augmentation", *settings]]
    for file in (tmp_path / "llm" / "model.safetensors", tmp_path / "encoder" / "tokenizer.json"):
        whole = file.read_bytes()
        changed = bytearray(whole)
        changed[-1] ^= 1 if file.suffix == ".safetensors" else 0
        file.write_bytes(bytes(changed) if changed != whole else whole + b"\n")
        refused(file.name, *everywhere)
        shutil.move(model, tmp_path / "kept")
        refused(file.name, ["train", QUICK, "mindmerger.mapping", *settings])  # goes on from its checkpoint
        shutil.move(tmp_path / "kept", model)
        file.write_bytes(whole)
    assert main(["train", QUICK, "mindmerger.augmentation", *settings]) == 0
    assert main(["generate", str(model_of(tmp_path / "run", "mindmerger.augmentation")), *ASK]) == 0


def test_a_mapping_is_used_directly(trained, tmp_path, capsys):
    """Ours or as the authors publish theirs: to answer, to evaluate, and to begin a stage with."""
    source = model_of(trained, "mindmerger.mapping")
    published = tmp_path / "pytorch_model.bin"
    assert main(["convert", str(source), str(published)]) == 0
    capsys.readouterr()
    assert main(["generate", str(source), *ASK, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    direct = ["--encoder", "tinyworld:encoder", "--mapping"]
    for mapping in (source / "mapping.safetensors", source, published):
        assert main(["generate", "tinyworld:llm", *ASK, "--json", *direct, str(mapping)]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["log_probability"] == pytest.approx(expected["log_probability"], rel=0.02), (
            "the authors' is bfloat16"
        )
    task = ["--source", "tinyworld", "--languages", "sw", "--limit", "2", "--max-new-tokens", "3", *ASK[-2:]]
    assert main(["evaluate", "tinyworld:llm", *task, "--output", str(tmp_path / "p"), *direct, str(source)]) == 0
    assert main(["generate", "tinyworld:llm", *ASK, "--mapping", str(published)]) == 2
    assert "--encoder and --mapping belong together" in capsys.readouterr().err
    assert main(["generate", str(source), *ASK, *direct, str(published)]) == 2
    assert "has an encoder and a mapping already" in capsys.readouterr().err


def test_a_stage_begins_with_a_mapping_of_its_own(trained, tmp_path, capsys):
    """The rate is so small that one step moves nothing that is seen."""
    published = tmp_path / "pytorch_model.bin"
    assert main(["convert", str(model_of(trained, "mindmerger.mapping")), str(published)]) == 0
    stage = "recipes.mindmerger.mapping"
    more = [f"{stage}.initial_mapping={published}", f"{stage}.optimizer.learning_rate=1e-12"]
    command = ["train", QUICK, "mindmerger.mapping", *overrides(tmp_path / "run", *more)]
    assert main(command) == 0
    found = mlp.CONNECTOR.read(model_of(tmp_path / "run", "mindmerger.mapping")).state_dict()
    for name, value in mlp.CONNECTOR.read(published).state_dict().items():
        assert torch.allclose(found[name], value, rtol=0, atol=1e-6), name
    shutil.copy(published, tmp_path / "kept.bin")
    content = bytearray(published.read_bytes())
    content[-40] ^= 1
    published.write_bytes(bytes(content))
    capsys.readouterr()
    assert main(command) == 2, "another mapping is another beginning"
    assert "another configuration" in capsys.readouterr().err
    llm = "question_alignment.translation"
    assert main(["train", QUICK, llm, *overrides(tmp_path / "r", f"recipes.{llm}.initial_mapping={published}")]) == 2
    assert "initial_mapping is for stages that train a mapping" in capsys.readouterr().err
