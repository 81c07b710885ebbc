"""Starts the kernels' tests under Triton's interpreter, and asks for Triton where it cannot run."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from mmscale_kernels import KernelUnavailable, dispatch
from mmscale_kernels.dispatch import implementations

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


def test_auto_takes_triton_on_a_gpu_where_it_is_the_better_default(monkeypatch):
    monkeypatch.delenv("MMSCALE_KERNELS", raising=False)
    monkeypatch.setattr(dispatch, "has_triton", lambda: True)
    gpu = torch.device("cuda")
    assert implementations(gpu) == {"adapter_merge": "torch", "linear_cross_entropy": "triton"}
    assert set(implementations(torch.device("cpu")).values()) == {"torch"}
    monkeypatch.setenv("MMSCALE_KERNELS", "triton")
    assert set(implementations(gpu).values()) == {"triton"}


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
    assert json.loads(capsys.readouterr().out)["kernels"] == {"adapter_merge": "torch", "linear_cross_entropy": "torch"}
