"""Kernels of mmscale, each beside its PyTorch reference; knows torch (and triton), nothing of mmscale."""

from mmscale_kernels.adapter import adapter_merge
from mmscale_kernels.dispatch import KernelUnavailable, use_triton
from mmscale_kernels.implementations import implementations
from mmscale_kernels.linear_cross_entropy import VocabularyShard, linear_cross_entropy
from mmscale_kernels.proxy_logits import proxy_choose
from mmscale_kernels.proxy_parts import Chosen, Draws, Parts
from mmscale_kernels.rotary import rotate

__all__ = [
    "Chosen",
    "Draws",
    "KernelUnavailable",
    "Parts",
    "VocabularyShard",
    "adapter_merge",
    "implementations",
    "linear_cross_entropy",
    "proxy_choose",
    "rotate",
    "use_triton",
]
