"""`mmscale bench`: scripts by name, their result files, and the gates of the compiled kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.proxy_ways import agreement, near_tie
from mmscale.cli.main import main


def without(*programs: str) -> str:
    """A PATH on which these are not."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not any((Path(f) / program).exists() for program in programs))


def test_what_there_is_is_listed_and_a_wrong_name_gets_the_nearest(capsys):
    assert main(["bench"]) == 0
    said = capsys.readouterr().out
    assert "train-step" in said and "kernels" in said
    assert not any(helper in said for helper in ("recording", "shapes", "proxy-ways"))
    assert main(["bench", "trainstep"]) == 2
    assert "did you mean 'train-step'?" in capsys.readouterr().err


def test_the_way_of_a_command_through_the_files_is_listed(capfd):
    assert main(["bench", "follow", "--since", "_code_of", "--until", "entries", "list", "rules"]) == 0
    said = capfd.readouterr().out.splitlines()
    files = said[said.index("mmscale/cli/main.py") :]
    assert "mmscale/cli/list.py" in files
    assert files[-2] == "mmscale/cli/list.py", "the way ends where it was told to"


def test_a_benchmark_is_started_as_a_module_wherever_one_stands(tmp_path):
    """Also in a folder that has an mmscale of its own, as a checkout does."""
    (tmp_path / "mmscale").mkdir()
    (tmp_path / "mmscale" / "__init__.py").touch()
    program = str(Path(sys.executable).parent / "mmscale")
    done = subprocess.run([program, "bench", "chaos", "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "--kills" in done.stdout, done.stderr


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
def test_a_step_is_put_together_part_by_part(tmp_path, capfd, monkeypatch, shape):
    """What was measured is kept where git is not."""
    monkeypatch.setenv("PATH", without("git"))
    arguments = ["--batch", "6" if shape == "tinyworld" else "3", "--batches", "2", "--json", "--shape", shape]
    assert main(["bench", "train-step", "--output", str(tmp_path), *arguments]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["gpu"] == "not measured" or said["device"] == "cuda"
    losses = [way["loss"] for way in said["ways"]]
    assert len(losses) == 6 and losses == pytest.approx([losses[0]] * 6, abs=1e-3)
    shares = {way["way"]: way["share_of_peak"] for way in said["ways"]}
    assert shares["+ norms and SwiGLUs that keep less"] < shares["+ packed rows"] < 1
    assert said["share_of_peak"] < 1 and said["speedup"] > 0
    file = "train_step.json" if shape == "tinyworld" else f"train_step_{shape}.json"
    kept = json.loads((tmp_path / file).read_text())
    assert kept["speedup"] == said["speedup"] and kept["made_with"]["commit"] == ""


def test_proxy_decoding_is_compared_with_the_published_way(tmp_path, capfd):
    """An expert trained for two steps, narrow models, few tokens: the answers of all three ways have to agree."""
    run = tmp_path / "run"
    stages = {"translation": "sw", "response": "en"}
    settings = [f"output_dir={run}", "methods=[question_alignment]", "evaluation.tasks={}", "proxy=null"]
    for stage, language in stages.items():
        key = f"recipes.question_alignment.{stage}"
        settings += [f"{key}.steps=2", f"{key}.data.0.limit_per_language=64", f"{key}.data.0.languages=[{language}]"]
    assert main(["run", "configs/quickstart.yaml", *settings]) == 0
    expert = run / "stages/question_alignment.response/model"
    arguments = ["--batches", "1", "4", "--languages", "en", "--problems", "4", "--new-tokens", "12", "--runs", "1"]
    widths = ["--small-width", "128", "--base-width", "192", "--expert", str(expert), "--json"]
    capfd.readouterr()
    assert main(["bench", "proxy-decode", "--output", str(tmp_path), *arguments, *widths]) == 0
    said = json.loads(capfd.readouterr().out)
    assert [row["batch"] for row in said["batches"]] == [1, 4] and said["gpu"] == "not measured"
    for row in said["batches"]:
        assert len(row["tokens_per_s"]) == 4 and all(speed > 0 for speed in row["tokens_per_s"].values())
        assert 0 < row["acceptance"] <= 1 and row["tokens_per_round"] >= 1
        assert set(row["answers"]) == {"ours, plain", "ours, speculative"}
        assert all(told["different"] == 0 and told["same"] >= 1 for told in row["answers"].values())
        speeds = [one["times_base_alone"] for one in row["by_acceptance"]]
        assert speeds == sorted(speeds)
    assert json.loads((tmp_path / "proxy_decode.json").read_text())["batches"] == said["batches"]


def test_answers_that_part_where_rounding_decides_are_no_fault():
    """Sixteen times the error of the published way, 1e-5 here."""
    noted = [{1: 1.0, 2: 0.5}, {5: 2.0 + 1e-5, 6: 2.0, 7: 1.0}]
    right = torch.zeros(2, 9, dtype=torch.float64)
    right[0, 1], right[0, 2], right[1, 5], right[1, 6], right[1, 7] = 1.0, 0.5, 2.0, 2.0, 1.0

    def exact(tokens):
        return right[: len(tokens) + 1]

    assert near_tie([1, 6, 9], [1, 5, 2], noted, exact)
    assert not near_tie([1, 7], [1, 5], noted, exact), "far below the chosen token"
    assert not near_tie([1, 8], [1, 5], noted, exact), "not among the likeliest"
    assert not near_tie([1], [1, 5], noted, exact), "ended early"
    right[1, 6] -= 15e-5
    assert near_tie([1, 6, 9], [1, 5, 2], [*noted[:1], {5: 2.0 + 1e-5}], exact)
    right[1, 6] -= 2e-5
    assert not near_tie([1, 6, 9], [1, 5, 2], [*noted[:1], {5: 2.0 + 1e-5}], exact)
    right[1, 6] = 2.0
    found = agreement(
        {"published": [[1, 5]] * 3, "ours, plain": [[1, 5], [1, 6], [1, 7]], "noted": [noted] * 3},
        ["ours, plain"],
        lambda _, tokens: exact(tokens),
    )
    assert found == {"ours, plain": {"same": 1, "near_ties": 1, "different": 1}}


def test_proxy_decoding_of_random_weights_is_predicted_from_costs(tmp_path, capfd):
    arguments = ["--shape", "small", "--batches", "2", "--new-tokens", "20", "--runs", "1", "--json"]
    assert main(["bench", "proxy-decode", "--output", str(tmp_path), *arguments]) == 0
    (row,) = json.loads(capfd.readouterr().out)["batches"]
    assert set(row["tokens_per_s"]) == {"published", "base alone", "ours, plain"} and "acceptance" not in row
    speeds = [one["times_base_alone"] for one in row["by_acceptance"]]
    assert speeds == sorted(speeds) and speeds[0] > 0
    assert (tmp_path / "proxy_decode_small.json").is_file()


def test_a_shared_beginning_is_measured_beside_whole_prompts(tmp_path, capfd):
    arguments = [
        "--shapes",
        "tiny",
        "--prompts",
        "3",
        "--shared-tokens",
        "80",
        "--new-tokens",
        "3",
        "--runs",
        "1",
        "--json",
    ]
    assert main(["bench", "prefix", "--output", str(tmp_path), *arguments]) == 0
    measured = json.loads(capfd.readouterr().out)["shapes"]["tiny"]
    assert all(measured[name]["times"] > 0 for name in ("first token", "answers", "options"))
    assert all(measured[name]["same"] == measured[name]["of"] == 3 for name in ("first token", "answers"))
    assert max(measured[name]["largest_difference"] for name in ("answers", "options")) < 1e-4, "of float32"
    assert json.loads((tmp_path / "prefix.json").read_text())["shapes"]["tiny"] == measured
