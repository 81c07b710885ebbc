"""What DeepSpeed compiles: a build that was killed leaves a lock, and nobody waits for it."""

from __future__ import annotations

import pytest

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
