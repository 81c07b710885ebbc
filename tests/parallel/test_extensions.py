"""What DeepSpeed compiles: a build that was killed leaves a lock, and nobody waits for it."""

from __future__ import annotations

import importlib.util

import pytest

from mmscale.cli.main import main
from mmscale.errors import UserError
from mmscale.parallel import extensions
from tests.distributed import ranks

LOADING = """
import deepspeed
from mmscale.parallel.extensions import load_operations
load_operations(deepspeed, ["ShareMemCommBuilder"])
print("loaded")
"""


def test_a_killed_build_holds_nobody_up(tmp_path):
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    ranks.run(1, ["-c", LOADING])  # built, so that what follows loads only
    lock = extensions.build_folder() / "deepspeed_shm_comm" / "lock"
    lock.touch()
    ranks.run(2, ["-c", LOADING])
    assert not lock.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    deepspeed = pytest.importorskip("deepspeed", reason="extra deepspeed")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(deepspeed.ops, "__compatible_ops__", {"deepspeed_shm_comm": True})
    with pytest.raises(UserError, match="cannot be built in .*file.*set TORCH_EXTENSIONS_DIR"):
        extensions.load_operations(deepspeed, ["ShareMemCommBuilder"])


@pytest.mark.parametrize(
    ("key", "package", "extra"),
    [("zero.stage=1", "deepspeed", "deepspeed"), ("tensor_parallel_size=2", "megatron", "tensor-parallel")],
)
def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch, capsys, key, package, extra):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    assert main(["train", "configs/quickstart.yaml", "mindmerger.mapping", f"parallel.{key}"]) == 2
    said = capsys.readouterr().err.replace("\n", " ")
    assert f"needs the extra {extra}: pip install 'mmscale[{extra}]'" in said
