"""Kernels of mmscale, each beside its PyTorch reference; knows torch (and triton), nothing of mmscale."""

from mmscale_kernels.dispatch import KernelUnavailable
from mmscale_kernels.linear_cross_entropy import Stretch, linear_cross_entropy
from mmscale_kernels.merge import merge_rows, merge_rows_reference

__all__ = ["KernelUnavailable", "Stretch", "linear_cross_entropy", "merge_rows", "merge_rows_reference"]
