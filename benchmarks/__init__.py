"""Shipped as mmscale.benchmarks: `mmscale bench NAME`, or `python -m mmscale.benchmarks.NAME`."""
