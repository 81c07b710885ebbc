"""What lies at a model's path is known again: every file that decides an answer, of every part, and no other."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mmscale.config.model import EncoderConfig, LanguageModelConfig
from mmscale.models.assembly import ModelParts, answering_files
from mmscale.models.places import resolve_path


@pytest.fixture
def parts(tmp_path) -> ModelParts:
    for name in ("llm", "encoder"):
        shutil.copytree(resolve_path(f"tinyworld:{name}"), tmp_path / name)
    (tmp_path / "pytorch_model.bin").write_bytes(b"weights")
    return ModelParts(
        language_model=LanguageModelConfig(path=str(tmp_path / "llm")),
        encoder=EncoderConfig(path=str(tmp_path / "encoder"), family="t5"),
        mapping=str(tmp_path / "pytorch_model.bin"),
    )


@pytest.mark.parametrize(
    "name",
    [
        *(f"llm/{name}" for name in ("model.safetensors", "config.json", "tokenizer.json", "generation_config.json")),
        *(
            "llm/special_tokens_map.json",
            "llm/chat_template.jinja",
            "encoder/model.safetensors",
            "encoder/tokenizer.json",
        ),
        *("encoder/sentencepiece.bpe.model", "pytorch_model.bin"),
    ],
)
def test_a_file_that_decides_answers_tells_one_model_from_another(parts, tmp_path, name):
    before, file = answering_files(parts), tmp_path / name
    assert before == answering_files(parts)
    content = bytearray(file.read_bytes() if file.exists() else b"{}")
    content[-1] ^= 1
    file.write_bytes(content)
    now = answering_files(parts)
    changed = {path for path in before if before[path] != now[path]}
    assert changed == {str(file if file.suffix == ".bin" else file.parent)}


def test_other_files_and_models_that_are_not_here_say_nothing(parts, tmp_path):
    before = answering_files(parts)
    Path(tmp_path, "llm", "README.md").write_text("read me")
    assert answering_files(parts) == before
    shutil.rmtree(tmp_path / "llm")
    assert set(answering_files(parts)) == {str(tmp_path / "encoder"), str(tmp_path / "pytorch_model.bin")}
