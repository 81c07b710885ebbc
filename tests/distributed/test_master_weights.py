"""Training in bfloat16 begins and ends with float32: master weights are the file's values, and what is handed on is theirs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmscale.models.places import resolve_path
from tests.distributed import ranks

SLOW = pytest.mark.slow
TARGET = "question_alignment.translation"
STEP = {"learning_rate": 1e-30, "embedding_learning_rate": 1e-30, "weight_decay": 0}
"""One that moves no float32 weight."""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return with_more_digits("llm", tmp_path_factory.mktemp("models") / "llm")


def with_more_digits(name: str, folder: Path) -> Path:
    """tinyworld's, with values that bfloat16 does not have."""
    shutil.copytree(resolve_path(f"tinyworld:{name}"), folder)
    torch.manual_seed(0)
    values = {name: one.float() for name, one in load_file(folder / "model.safetensors").items()}
    values = {name: one * (1 + 1e-3 * torch.rand_like(one)) for name, one in values.items()}
    save_file(values, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float32"}))
    return folder


@pytest.mark.parametrize(
    ("stage", "count", "tensor"),
    [
        (3, 2, 1),
        pytest.param(2, 2, 1, marks=SLOW),
        pytest.param(1, 2, 1, marks=SLOW),
        pytest.param(0, 1, 1, marks=SLOW),
        pytest.param(3, 4, 2, marks=SLOW),
        pytest.param(1, 4, 2, marks=SLOW),
    ],
)
def test_a_step_that_moves_nothing_hands_on_the_very_values(model, tmp_path, stage, count, tensor):
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    if tensor > 1:
        pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    recipe = f"recipes.{TARGET}"
    settings = [f"{recipe}.optimizer.{key}={value}" for key, value in STEP.items()]
    settings += [f"{recipe}.steps=1", f"{recipe}.precision=bfloat16", f"{recipe}.data.0.limit_per_language=8"]
    settings += [
        f"parallel.zero.stage={stage}",
        f"parallel.tensor_parallel_size={tensor}",
        f"{recipe}.data.0.languages=[sw]",
    ]
    command = ["train", "configs/quickstart.yaml", TARGET, f"output_dir={tmp_path}", f"language_model.path={model}"]
    ranks.run(count, ["-m", "mmscale", *command, "methods=[question_alignment]", "languages=[en,sw]", *settings])
    given, found = (
        load_file(folder / "model.safetensors") for folder in (model, tmp_path / "stages" / TARGET / "model")
    )
    assert given.keys() == found.keys()
    for name, value in given.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], value), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_trained_encoder_is_not_rounded_either(tmp_path, stage):
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    encoder, target = with_more_digits("encoder", tmp_path / "encoder"), "mindmerger.mapping"
    recipe = f"recipes.{target}"
    settings = [f"{recipe}.optimizer={{learning_rate: 1e-30}}", f"{recipe}.trains=[connector,encoder]"]
    settings += [f"{recipe}.steps=1", f"{recipe}.precision=bfloat16", f"{recipe}.data.0.limit_per_language=8"]
    settings += [f"parallel.zero.stage={stage}", f"{recipe}.data.0.languages=[sw]", f"encoder.path={encoder}"]
    command = ["train", "configs/quickstart.yaml", target, f"output_dir={tmp_path / 'run'}", "languages=[en,sw]"]
    ranks.run(2, ["-m", "mmscale", *command, "methods=[mindmerger]", *settings])
    given = load_file(encoder / "model.safetensors")
    handed_on = load_file(tmp_path / "run" / "stages" / target / "model" / "encoder" / "model.safetensors")
    assert handed_on and all(value.equal(given[name]) for name, value in handed_on.items())
