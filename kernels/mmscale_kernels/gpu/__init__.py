"""Triton kernels; imported only where Triton is installed and chosen (mmscale_kernels.dispatch)."""
