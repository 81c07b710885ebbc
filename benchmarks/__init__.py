"""Shipped as mmscale.benchmarks; each script is started by itself, `mmscale bench NAME`."""
