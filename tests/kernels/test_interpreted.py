"""Starts the kernels' tests under Triton's interpreter, and asks for Triton where it cannot run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from mmscale_kernels import KernelUnavailable, adapter_choice, dispatch, implementations

from mmscale.cli.main import main
from tests.distributed.ranks import ROOT


def test_every_kernel_equals_float64_under_the_interpreter():
    pytest.importorskip("triton", reason="Triton is made for Linux")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "MMSCALE_KERNELS": "triton", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "tests/kernels/interpreted.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.parametrize(
    ("value", "triton", "message"),
    [
        ("fast", True, "MMSCALE_KERNELS=fast is none of auto, torch, triton"),
        ("triton", False, "Triton is not installed: pip install triton"),
        ("triton", True, "MMSCALE_KERNELS=triton needs a GPU, and these tensors are on cpu"),
    ],
)
def test_an_explicit_choice_that_cannot_be_met_is_refused(monkeypatch, value, triton, message):
    monkeypatch.setenv("MMSCALE_KERNELS", value)
    monkeypatch.setattr(dispatch, "has_triton", lambda: triton)
    with pytest.raises(KernelUnavailable, match=message):
        implementations(torch.device("cpu"))


def test_auto_takes_triton_on_a_gpu_and_asks_the_table_for_the_mapping(monkeypatch, tmp_path):
    monkeypatch.delenv("MMSCALE_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setenv("MMSCALE_ADAPTER_TABLE", str(tmp_path / "own.json"))
    gpu = torch.device("cuda")
    by_table = "by measured shapes (0 of this device), else cuBLASLt and triton"
    assert implementations(gpu) == {
        "adapter_merge": by_table,
        "linear_cross_entropy": "triton",
        "proxy_logits": "triton",
        "rotate": "triton",
    }
    assert set(implementations(torch.device("cpu")).values()) == {"torch"}
    monkeypatch.setenv("MMSCALE_KERNELS", "triton")
    assert set(implementations(gpu).values()) == {"triton"}


def row(device: str, states: int, forward: str, backward: str) -> dict:
    shape = {"states": states, "encoder_width": 2048, "hidden_width": 4096, "llm_width": 4096}
    return {"device": device, "dtype": "bfloat16", "shape": shape, "forward": forward, "backward": backward}


def test_the_nearest_measured_shape_of_this_gpu_decides(monkeypatch, tmp_path):
    file = tmp_path / "own.json"
    rows = [
        row("A", 1024, "library", "triton"),
        row("A", 8192, "triton", "library"),
        row("B", 1024, "triton", "triton"),
    ]
    file.write_text(json.dumps({"choices": rows}))

    def asked(device: str, states: int, dtype: str = "bfloat16", encoder: int = 2048) -> tuple[str, str]:
        return adapter_choice.fastest(device, dtype, adapter_choice.Shape(states, encoder, 4096, 4096), file)

    assert asked("A", 1500) == ("library", "triton") and asked("A", 6000) == ("triton", "library")
    assert asked("B", 1024) == ("triton", "triton")
    unmeasured = [asked("C", 1024), asked("A", 1024, "float16"), asked("A", 100_000), asked("A", 8192, encoder=256)]
    assert unmeasured == [("library", "library")] * 4
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"choices": [{"device": "A"}]}')
    with pytest.raises(KernelUnavailable, match=r"damaged.json is no table of measured choices .*: delete it"):
        adapter_choice.table(damaged)


def test_what_ships_was_measured(tmp_path):
    shipped = json.loads(adapter_choice.SHIPPED.read_text(encoding="utf-8"))["choices"]
    measured = json.loads((ROOT / "benchmarks/results/h200/adapter_choice.json").read_text(encoding="utf-8"))["choices"]
    assert measured and [row for row in shipped if row["device"] == "NVIDIA H200"] == measured
    for row in measured:
        shape = adapter_choice.Shape(**row["shape"])
        found = adapter_choice.fastest(row["device"], row["dtype"], shape, tmp_path / "no table of this machine")
        for part, way in zip(("forward", "backward"), found, strict=True):
            assert row["milliseconds"][way][part] == min(took[part] for took in row["milliseconds"].values())


def test_auto_and_torch_never_need_triton(monkeypatch):
    monkeypatch.setattr(dispatch, "has_triton", lambda: False)
    assert set(implementations(torch.device("cuda")).values()) == {"torch"}
    monkeypatch.setenv("MMSCALE_KERNELS", "torch")
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    assert set(implementations(torch.device("cuda")).values()) == {"torch"}


def test_the_command_line_says_so_in_one_sentence(monkeypatch, capsys):
    monkeypatch.setenv("MMSCALE_KERNELS", "triton")
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    assert main(["train", "configs/quickstart.yaml", "mindmerger.mapping"]) == 2
    assert capsys.readouterr().err.strip() == (
        "mmscale: MMSCALE_KERNELS=triton needs a GPU, and these tensors are on cpu: unset it, or set it to torch"
    )
    monkeypatch.delenv("MMSCALE_KERNELS")
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kernels"] == dict.fromkeys(
        ("adapter_merge", "linear_cross_entropy", "proxy_logits", "rotate"), "torch"
    )
