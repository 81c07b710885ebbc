"""`mmscale bench`: scripts by name, their result files, and the gates of the compiled kernels."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mmscale.cli.main import main


def test_what_there_is_is_listed_and_a_wrong_name_gets_the_nearest(capsys):
    assert main(["bench"]) == 0
    said = capsys.readouterr().out
    assert "train-step" in said and "kernels" in said and "recording" not in said
    assert main(["bench", "trainstep"]) == 2
    assert "did you mean 'train-step'?" in capsys.readouterr().err


def test_every_kernel_compiles_for_every_gpu_and_fits(tmp_path, capfd):
    pytest.importorskip("triton", reason="Triton is made for Linux")
    assert main(["bench", "kernels", "--output", str(tmp_path), "--compile-only", "--dtypes", "bf16"]) == 0
    assert "tensor-core" in capfd.readouterr().out
    found = json.loads((tmp_path / "kernel_resources.json").read_text())
    assert {one["target"] for one in found["kernels"]} == {"sm_80", "sm_90", "sm_100", "gfx942"}
    assert len(found["kernels"]) == 4 * 19 and found["made_with"]["commit"] is not None
    assert all(one["tensor_cores"] for one in found["kernels"] if one["variant"].startswith("adapter"))


def test_a_kernel_that_spills_or_needs_too_much_is_a_fault():
    pytest.importorskip("triton", reason="Triton is made for Linux")
    from mmscale_kernels.gpu.compilation import compile_for, variants

    right = next(variants(("bf16",)))
    blocks = {"BLOCK_M": 256, "BLOCK_N": 256, "BLOCK_K": 64}
    wrong = compile_for(replace(right, constants={**right.constants, **blocks}, warps=4), "sm_80")
    assert any("spills" in fault for fault in wrong.faults)
    large = compile_for(replace(right, constants={**right.constants, **blocks}, warps=8, stages=4), "sm_80")
    assert any("bytes of shared memory, 166,912 are there" in fault for fault in large.faults)


@pytest.mark.parametrize("shape", ["tinyworld", "small"])
def test_a_step_is_compared_with_the_published_way(tmp_path, capfd, shape):
    arguments = ["--batch", "6", "--batches", "2", "--json", "--shape", shape]
    assert main(["bench", "train-step", "--output", str(tmp_path), *arguments]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["gpu"] == "not measured" or said["device"] == "cuda"
    losses = [way["loss"] for way in said["ways"]]
    assert len(losses) == 5 and losses == pytest.approx([losses[0]] * 5, abs=1e-3)
    assert said["share_of_peak"] < 1 and said["speedup"] > 0
    file = "train_step.json" if shape == "tinyworld" else f"train_step_{shape}.json"
    assert json.loads((tmp_path / file).read_text())["speedup"] == said["speedup"]
