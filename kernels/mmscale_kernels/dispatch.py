"""Which implementation runs: Triton's on a GPU, PyTorch's elsewhere; MMSCALE_KERNELS=auto|torch|triton decides otherwise."""

from __future__ import annotations

import importlib.util
import os

import torch

SWITCH = "MMSCALE_KERNELS"
_MODES = ("auto", "torch", "triton")
_BY_DEFAULT = {"adapter_merge": False, "linear_cross_entropy": True}
"""Whether `auto` takes Triton on a GPU. cuBLAS sets a high bar for the adapter's two plain products: until Triton's were
measured on a GPU, they run where asked for."""


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


def use_triton(device: torch.device, kernel: str) -> bool:
    """Whether a kernel's tensors on a device go to Triton; KernelUnavailable when it was asked for and cannot be."""
    chosen, able = mode(), has_triton()
    if chosen == "triton":
        if not able:
            raise KernelUnavailable(f"{SWITCH}=triton, but Triton is not installed: pip install triton, or unset it")
        if device.type != "cuda" and not interpreted():
            raise KernelUnavailable(
                f"{SWITCH}=triton needs a GPU, and these tensors are on {device.type}: unset it, or set it to torch"
            )
        return True
    return _BY_DEFAULT[kernel] and chosen == "auto" and able and device.type == "cuda"


def implementations(device: torch.device) -> dict[str, str]:
    """kernel -> `triton` or `torch`, for tensors of a device."""
    return {kernel: "triton" if use_triton(device, kernel) else "torch" for kernel in _BY_DEFAULT}
