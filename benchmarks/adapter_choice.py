"""Which products are the fastest for the mapping on this GPU, shape by shape: mmscale bench adapter-choice

cuBLASLt's products with rows moved by Triton, against Triton's products that write the merged row themselves, forward and
backward, after their results were compared. Medians of runs that take turns. What wins is written where mmscale looks for
it first (MMSCALE_ADAPTER_TABLE, or the user's cache folder), and beside the other results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmscale_kernels import adapter_choice
from mmscale_kernels.adapter import adapter_merge
from mmscale_kernels.adapter_choice import WAYS, Shape
from mmscale_kernels.dispatch import has_triton, interpreted
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmscale.storage.files import write_json

from .recording import record
from .timing import seconds

Result = TypeVar("Result")
WIDTHS = [(2048, 4096), (2048, 5120), (2048, 8192), (1024, 4096)]
"""(encoder, LLM): mT5-xl or NLLB-3.3B, and XLM-R-large or mT5-large, in front of 7B, 13B and 70B."""
STATES = [1024, 8192, 65_536]
_AGREE = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}


class Call:
    """One shape's inputs, and its two passes."""

    def __init__(self, shape: Shape, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)

        def values(*sizes: int) -> Tensor:
            return (torch.randn(*sizes, device=device, dtype=dtype) / sizes[-1] ** 0.5).requires_grad_()

        e, k, h, d = shape.states, shape.encoder_width, shape.hidden_width, shape.llm_width
        self.weights = [values(h, k), values(h), values(d, h), values(d), values(d)]
        self.states, self.tokens = values(e, k).detach(), values(e, d).detach()
        order = torch.randperm(2 * e, device=device)
        none = order.new_empty(0)
        self.rows = order[:e], order[e:], none
        self.upstream = torch.randn(2 * e, d, device=device, dtype=dtype)

    def forward(self) -> Tensor:
        w1, b1, w2, b2, boundary = self.weights
        return adapter_merge(self.states, w1, b1, w2, b2, boundary, self.tokens, *self.rows)

    def gradients(self, merged: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(merged, self.weights, self.upstream, retain_graph=True)


def measure(shape: Shape, device: torch.device, dtype: torch.dtype, runs: int) -> dict[str, Any]:
    """Milliseconds of each way and pass, once both ways agree; a row of the table."""
    call = Call(shape, device, dtype)
    merged = {way: _forced(way, call.forward)() for way in WAYS}
    backward = {way: _forced(way, partial(call.gradients, merged[way])) for way in WAYS}
    results = {way: [merged[way].detach(), *backward[way]()] for way in WAYS}
    for a, b in zip(*results.values(), strict=True):
        far = float((a.double() - b.double()).norm() / a.double().norm().clamp_min(1e-30))
        if not far <= _AGREE[dtype]:
            sys.exit(f"{shape}: the two ways differ by {far:.1e}; nothing was written")
    took = {
        "forward": seconds({way: _forced(way, call.forward) for way in WAYS}, runs),
        "backward": seconds(backward, runs),
    }
    medians = {way: {part: 1e3 * took[part][way] for part in took} for way in WAYS}
    best = {part: min(WAYS, key=lambda way: medians[way][part]) for part in ("forward", "backward")}
    name = str(dtype).removeprefix("torch.")
    return {
        "device": adapter_choice.device_name(device),
        "dtype": name,
        "shape": vars(shape),
        **best,
        "milliseconds": medians,
    }


def _forced(way: str, work: Callable[[], Result]) -> Callable[[], Result]:
    def run() -> Result:
        with adapter_choice.forced(way):
            return work()

    return run


def _shapes(text: list[str] | None) -> list[Shape]:
    if text is None:
        return [Shape(e, k, 2 * k, d) for k, d in WIDTHS for e in STATES]
    shapes = []
    for one in text:
        sizes = one.split("x")
        if len(sizes) != 3 or not all(size.isdigit() and int(size) for size in sizes):
            sys.exit(f"--shapes takes STATESxENCODERxLLM, for example 8192x2048x4096, not {one}")
        e, k, d = map(int, sizes)
        shapes.append(Shape(e, k, 2 * k, d))
    return shapes


def keep(rows: list[dict[str, Any]]) -> Path:
    """Write the machine's table."""
    path = adapter_choice.own_table()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"choices": rows})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", help="STATESxENCODERxLLM, instead of the usual ones")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--runs", type=int, default=11)
    chosen = parser.parse_args()
    shapes = _shapes(chosen.shapes)
    if not has_triton():
        sys.exit("there is nothing to choose without Triton: pip install triton")
    if not torch.cuda.is_available() and not interpreted():
        print("there is no GPU here, so there is nothing to measure; the table is left as it is", file=sys.stderr)
        sys.exit(2)
    device, dtype = torch.device("cuda" if torch.cuda.is_available() else "cpu"), getattr(torch, chosen.dtype)
    rows = [measure(shape, device, dtype, chosen.runs) for shape in shapes]
    table = Table("states x encoder x LLM", "pass", *(f"{way}, ms" for way in WAYS), "fastest")
    for row in rows:
        shape = row["shape"]
        for part in ("forward", "backward"):
            numbers = (f"{row['milliseconds'][way][part]:.3f}" for way in WAYS)
            title = f"{shape['states']:,} x {shape['encoder_width']:,} x {shape['llm_width']:,}"
            table.add_row(title, part, *numbers, row[part])
    Console(width=110).print(table)
    print(keep(rows))
    print(record("adapter_choice", {"choices": rows}))


if __name__ == "__main__":
    main()
