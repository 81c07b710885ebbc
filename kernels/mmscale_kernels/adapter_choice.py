"""Which way of running the mapping's products is the fastest: a table, measured for each kind of GPU and shape.

    library   cuBLASLt's products (bias and ReLU in their epilogue), rows moved and columns summed by Triton kernels
    triton    Triton's products, which read and write the merged row's places themselves

cuBLAS sets a high bar for two plain products: a shape that nobody measured on this GPU goes to the library. `mmscale bench
adapter-choice` measures and writes the table of this machine, which comes before the one that ships beside this file.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from mmscale_kernels.dispatch import KernelUnavailable, mode, use_triton

WAYS = ("library", "triton")
TORCH = "torch"
"""Without Triton there is nothing to choose."""
SHIPPED = Path(__file__).with_name("adapter_choice.json")
_NEAR = 2.0
"""Binary orders of magnitude, over all sizes together, up to which a measured shape speaks for another one."""
_forced: str | None = None


@dataclass(frozen=True)
class Shape:
    """Sizes of one call: E encoder states of width K, H hidden, D the LLM's width."""

    states: int
    encoder_width: int
    hidden_width: int
    llm_width: int

    def distance(self, other: Shape) -> float:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return sum(abs(math.log2(max(a, 1) / max(b, 1))) for a, b in pairs)


@dataclass(frozen=True)
class MeasuredChoice:
    """What was the fastest for one shape."""

    device: str
    dtype: str
    shape: Shape
    forward: str
    backward: str


def own_table() -> Path:
    """Where this machine's table lies: MMSCALE_ADAPTER_TABLE, or the user's cache folder."""
    named = os.environ.get("MMSCALE_ADAPTER_TABLE")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "mmscale" / "adapter_choice.json"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


@functools.cache
def table(file: Path) -> tuple[MeasuredChoice, ...]:
    """Rows of a table; none where there is no file. KernelUnavailable for a file that is no table."""
    if not file.is_file():
        return ()
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))["choices"]
        found = tuple(
            MeasuredChoice(r["device"], r["dtype"], Shape(**r["shape"]), r["forward"], r["backward"]) for r in rows
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KernelUnavailable(
            f"{file} is no table of measured choices ({error}): delete it, or write it again by mmscale bench adapter-choice"
        ) from error
    for row in found:
        if not {row.forward, row.backward} <= set(WAYS):
            raise KernelUnavailable(
                f"{file} names {row.forward} and {row.backward}, which are not of {', '.join(WAYS)}"
            )
    return found


@functools.lru_cache(maxsize=4096)
def fastest(device: str, dtype: str, shape: Shape, own: Path) -> tuple[str, str]:
    """(forward, backward) of the nearest shape measured on this kind of device, the machine's own table first."""
    for file in (own, SHIPPED):
        rows = [row for row in table(file) if (row.device, row.dtype) == (device, dtype)]
        near = min(rows, key=lambda row: row.shape.distance(shape), default=None)
        if near is not None and near.shape.distance(shape) <= _NEAR:
            return near.forward, near.backward
    return "library", "library"


def choose(device: torch.device, dtype: torch.dtype, shape: Shape) -> tuple[str, str]:
    """(forward, backward) for a call: `torch`, `library` or `triton`."""
    if _forced is not None:
        return _forced, _forced
    if not use_triton(device):
        return TORCH, TORCH
    if mode() == "triton":
        return "triton", "triton"
    return fastest(device_name(device), str(dtype).removeprefix("torch."), shape, own_table())


@contextlib.contextmanager
def forced(way: str) -> Iterator[None]:
    """Let every call go one way, to measure it."""
    global _forced
    before, _forced = _forced, way
    try:
        yield
    finally:
        _forced = before
