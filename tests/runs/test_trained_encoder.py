"""A stage that trains the encoder as well, from the command line: what it hands on, who takes it up, what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.errors import UserError
from mmscale.models.assembly import read_parts, require_sealed_unchanged
from mmscale.models.places import resolve_path
from mmscale.models.seal import hashes, read_seal, write_seal
from mmscale.parallel.context import ParallelContext
from mmscale.runs.run import check
from mmscale.training.metrics import read_metrics
from tests.flips import flips

HERE = ParallelContext(device=torch.device("cpu"))
QUICK = "configs/quickstart.yaml"
MAPPING, AUGMENTATION = "recipes.mindmerger.mapping", "recipes.mindmerger.augmentation"
TEN = "[{source: tinyworld, limit_per_language: 10, options: {form: %s}}]"
ASK = ["Ana ana vitabu 5.", "--language", "sw", "--max-new-tokens", "6", "--prompt", "tinyworld_math"]


def settings(folder: Path, *more: str) -> list[str]:
    """The first stage trains connector and encoder, the second goes on with the connector alone."""
    return [
        f"output_dir={folder}",
        "methods=[mindmerger]",
        "proxy=null",
        "languages=[sw]",
        f"{MAPPING}.data={TEN % 'translation'}",
        f"{MAPPING}.packing.global_batch_size=4",
        f"{MAPPING}.steps=4",
        f"{MAPPING}.trains=[connector,encoder]",
        f"{MAPPING}.optimizer.encoder_learning_rate=1e-3",
        f"{AUGMENTATION}.data={TEN % 'problem, rationale_language: en'}",
        f"{AUGMENTATION}.packing.global_batch_size=10",
        f"{AUGMENTATION}.steps=4",
        "evaluation.tasks.tinyworld.data.limit_per_language=2",
        "evaluation.tasks.tinyworld.generation={max_new_tokens: 4, batch_size: 2}",
        *more,
    ]


def model_of(run: Path, stage: str) -> Path:
    return run / "stages" / f"mindmerger.{stage}" / "model"


def losses(run: Path, stage: str) -> list[float]:
    rows = read_metrics(run / "stages" / f"mindmerger.{stage}" / "metrics.jsonl")
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main(["run", QUICK, *settings(folder)]) == 0
    return folder


def answer(capsys, *model: str) -> str:
    capsys.readouterr()
    assert main(["generate", *model, *ASK]) == 0
    return capsys.readouterr().out


def refused(capsys, *command: str) -> str:
    capsys.readouterr()
    assert main(list(command)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_run_hands_the_encoder_to_its_next_stage_and_to_whoever_asks(trained, tmp_path, capsys):
    before = load_file(Path(resolve_path("tinyworld:encoder")) / "model.safetensors")
    after = load_file(model_of(trained, "mapping") / "encoder" / "model.safetensors")
    assert after.keys() == {name for name in before if not name.startswith(("decoder.", "lm_head."))}
    assert not any(before[name].equal(after[name]) for name in after)
    named = read_parts(str(model_of(trained, "augmentation")))
    assert Path(named.encoder.path) == model_of(trained, "mapping") / "encoder"
    assert not (model_of(trained, "augmentation") / "encoder").exists(), "it trained none"
    assert not (trained / "stages" / "mindmerger.mapping" / "encoder_states").exists()
    assert (trained / "report.html").is_file() and "mindmerger" in json.loads((trained / "scores.json").read_text())

    own = answer(capsys, str(model_of(trained, "augmentation")))
    assert main(["convert", str(model_of(trained, "augmentation")), str(tmp_path / "whole"), "--whole"]) == 0
    assert load_file(tmp_path / "whole" / "encoder" / "model.safetensors").keys() == after.keys()
    assert answer(capsys, str(tmp_path / "whole")) == own
    capsys.readouterr()
    assert main(["report", str(trained), "--model-card"]) == 0
    card = Path(capsys.readouterr().out.strip().splitlines()[-1]).read_text()
    assert "trains connector, encoder; AdamW" in card


@pytest.mark.slow
def test_the_cached_states_of_the_next_stage_are_those_of_the_trained_encoder(trained, tmp_path):
    """Kept or computed in every step, the losses are the same; the frozen encoder's states would give others."""
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    shutil.rmtree(folder / "stages" / "mindmerger.augmentation")
    assert main(["run", QUICK, *settings(folder, "encoder_cache=off")]) == 0
    kept, computed = losses(trained, "augmentation"), losses(folder, "augmentation")
    assert computed == pytest.approx(kept, rel=1e-5)


def test_a_changed_or_added_file_of_the_encoder_is_refused_wherever_it_is_read(trained, tmp_path, capsys):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    own, later = model_of(folder, "mapping"), model_of(folder, "augmentation")
    rewrite_paths(later, trained, folder)
    for model in (own, later):
        parts = read_parts(str(model))
        require_sealed_unchanged(parts, HERE)
        for name in ("model.safetensors", "config.json", "tokenizer.json"):
            for where in flips(own / "encoder" / name, 3):
                with pytest.raises(UserError, match=f"encoder/{name} is not what its stage wrote"):
                    require_sealed_unchanged(parts, HERE)
                    pytest.fail(f"{name}: the flip at {where} was not seen")
    (own / "encoder" / "adapter_config.json").write_text("{}")
    assert "adapter_config.json is none of what its stage wrote" in refused(capsys, "generate", str(later), *ASK)


def rewrite_paths(model: Path, old: Path, new: Path) -> None:
    """The parts of a copied run name the copy, under a seal that says so."""
    file = model / "mmscale.json"
    file.write_text(file.read_text().replace(str(old), str(new)))
    seal = read_seal(model)
    write_seal(model, seal.fingerprint, hashes(model, list(seal.files)))


def test_an_encoder_trained_anew_at_the_same_path_is_refused(trained, tmp_path, capsys):
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    rewrite_paths(model_of(folder, "augmentation"), trained, folder)
    answer(capsys, str(model_of(folder, "augmentation")))
    seal = read_seal(model_of(folder, "mapping"))
    write_seal(model_of(folder, "mapping"), "another", seal.files)
    said = refused(capsys, "generate", str(model_of(folder, "augmentation")), *ASK)
    assert "encoder is not the model that the mapping was trained with: its fingerprint.json differs" in said


def test_a_mapping_is_asked_with_the_encoder_that_was_trained_with_it_alone(trained, capsys):
    for stage in ("mapping", "augmentation"):
        by_hand = ["tinyworld:llm", "--mapping", str(model_of(trained, stage) / "mapping.safetensors"), "--encoder"]
        said = refused(capsys, "generate", *by_hand, "tinyworld:encoder", *ASK)
        assert f"was trained with the encoder {model_of(trained, 'mapping') / 'encoder'}: name that one" in said
        own = answer(capsys, *by_hand, str(model_of(trained, "mapping") / "encoder"))
        assert own == answer(capsys, str(model_of(trained, stage)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["encoder_cache=states"], "trains the encoder, and encoder_cache=states keeps the states of one that stays"),
        (["encoder.dtype=bfloat16"], "trains the encoder, and bfloat16 weights without float32 copies lose small"),
        (["encoder.dtype=float16"], "trains the encoder, and float16 loses small gradients"),
        (["encoder.dtype=bfloat16", "parallel.zero.stage=1"], "set precision=bfloat16, or encoder.dtype=float32"),
        ([f"{MAPPING}.trains=[connector]"], "does not train the encoder: leave optimizer.encoder_learning_rate out"),
        ([f"{MAPPING}.trains=[encoder]"], "through a connector that no stage has trained"),
        ([f"{MAPPING}.trains=[connector,connector]"], "name each component once"),
        ([f"{MAPPING}.trains=[encoder,encoder_embeddings]"], "encoder includes encoder_embeddings"),
        ([f"{MAPPING}.trains=[]"], "at least 1 item"),
        ([f"{MAPPING}.trains=[encodr]"], "'language_model', 'connector', 'encoder' or 'encoder_embeddings'"),
        (
            [
                f"{MAPPING}.trains=null",
                f"{MAPPING}.optimizer.encoder_learning_rate=null",
                'encoder.added_tokens=["  "]',
            ],
            "reads encoder.added_tokens, whose rows nothing has trained",
        ),
        (["connector=layalign"], "connector layalign reads all of its layers, which is not supported together"),
        (['encoder.added_tokens=["  ", "  "]'], "name each token once"),
    ],
)
def test_what_cannot_be_trained_as_asked_is_refused(tmp_path, changes, said):
    with pytest.raises(UserError, match=re.escape(said)):
        check(load_run(QUICK, settings(tmp_path / "run", *changes)))


@pytest.mark.slow
def test_all_three_trained_in_one_stage_are_one_folder_that_answers_and_moves(tmp_path, capsys):
    everything = [
        f"{AUGMENTATION}.trains=[connector,encoder,language_model]",
        f"{AUGMENTATION}.optimizer.learning_rate=1e-3",
    ]
    assert main(["run", QUICK, *settings(tmp_path / "run", *everything)]) == 0
    model = model_of(tmp_path / "run", "augmentation")
    named = read_parts(str(model))
    assert Path(named.encoder.path) == model / "encoder" and Path(named.language_model.path) == model
    assert not named.trained_with, "all of it is in the folder"
    before = load_file(model_of(tmp_path / "run", "mapping") / "encoder" / "model.safetensors")
    after = load_file(model / "encoder" / "model.safetensors")
    assert before.keys() == after.keys() and not any(before[name].equal(after[name]) for name in before)
    own = answer(capsys, str(model))
    assert main(["convert", str(model), str(tmp_path / "whole"), "--whole"]) == 0
    model.rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "run")
    assert answer(capsys, str(tmp_path / "moved")) == answer(capsys, str(tmp_path / "whole")) == own


@pytest.mark.slow
def test_a_stages_llm_in_another_dtype_has_no_seal_of_the_one_before(tmp_path, capsys):
    stage = "question_alignment.translation"
    small = [f"recipes.{stage}.{key}" for key in ("steps=1", "data.0.limit_per_language=8", "data.0.languages=[sw]")]
    assert main(["train", QUICK, stage, f"output_dir={tmp_path / 'run'}", *small]) == 0
    tuned = tmp_path / "run" / "stages" / stage / "model"
    assert main(["convert", str(tuned), str(tmp_path / "half"), "--dtype", "bfloat16"]) == 0
    assert answer(capsys, str(tmp_path / "half"))
