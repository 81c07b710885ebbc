"""Which implementation runs: Triton's on a GPU, PyTorch's elsewhere; MMSCALE_KERNELS=auto|torch|triton decides otherwise."""

from __future__ import annotations

import importlib.util
import os

import torch

SWITCH = "MMSCALE_KERNELS"
_MODES = ("auto", "torch", "triton")


class KernelUnavailable(RuntimeError):
    """What was asked for by name cannot run here; the message says what to do."""


def mode() -> str:
    """The switch; KernelUnavailable when it holds anything else."""
    chosen = os.environ.get(SWITCH, "auto")
    if chosen not in _MODES:
        raise KernelUnavailable(f"{SWITCH}={chosen} is none of {', '.join(_MODES)}: set one of these, or unset it")
    return chosen


def has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def interpreted() -> bool:
    """Whether Triton's interpreter runs kernels on the CPU (tests do so; it is a thousand times slower)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def use_triton(device: torch.device) -> bool:
    """Whether tensors on a device go to Triton's kernels; KernelUnavailable when that was asked for and cannot be."""
    chosen, able = mode(), has_triton()
    if chosen == "triton":
        if not able:
            raise KernelUnavailable(f"{SWITCH}=triton, but Triton is not installed: pip install triton, or unset it")
        if device.type != "cuda" and not interpreted():
            raise KernelUnavailable(
                f"{SWITCH}=triton needs a GPU, and these tensors are on {device.type}: unset it, or set it to torch"
            )
        return True
    return chosen == "auto" and able and device.type == "cuda"
