"""Kernels of mmscale, each beside its PyTorch reference; knows torch (and triton), nothing of mmscale."""

from mmscale_kernels.merge import merge_rows, merge_rows_reference

__all__ = ["merge_rows", "merge_rows_reference"]
