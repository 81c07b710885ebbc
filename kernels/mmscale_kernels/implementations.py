"""Which implementation of each kernel runs on a device, for those who ask before anything runs."""

from __future__ import annotations

import torch

from mmscale_kernels.adapter_choice import SHIPPED, device_name, own_table, table
from mmscale_kernels.dispatch import mode, use_triton


def implementations(device: torch.device) -> dict[str, str]:
    """kernel -> `triton`, `torch` or, for the mapping's products on a GPU, how many shapes were measured there.

    KernelUnavailable when MMSCALE_KERNELS asks for what cannot be, or a table of choices is damaged.
    """
    name = "triton" if use_triton(device) else "torch"
    return {"adapter_merge": _adapter(device, name), "linear_cross_entropy": name, "proxy_logits": name, "rotate": name}


def _adapter(device: torch.device, name: str) -> str:
    if name == "torch" or mode() == "triton":
        return name
    measured = sum(row.device == device_name(device) for file in (own_table(), SHIPPED) for row in table(file))
    return f"by measured shapes ({measured} of this device), else cuBLASLt and triton"
