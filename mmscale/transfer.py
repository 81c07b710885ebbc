"""Tensors of the host on their way to a device, which does not have to be waited for.

torch.tensor(values, device=gpu) and tensor.to(gpu) copy from pageable memory and then wait until everything queued on the
device is done. A copy from page-locked memory takes its place in the queue, and Python goes on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, or of a device, on a device; the same one where it is there already."""
    if device.type in ("cpu", "meta") or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)  # torch keeps the locked memory until the copy is done


def tensor_on(device: torch.device, values: Any, dtype: torch.dtype | None = None) -> Tensor:
    """torch.tensor(values, dtype=dtype) on a device."""
    return to_device(torch.tensor(values, dtype=dtype), device)
