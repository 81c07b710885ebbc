"""What the Triton kernels take of a GPU, and how the ops compare with what they replace: python benchmarks/kernels.py

--compile-only compiles every kernel in every dtype for GPUs that need not be here, prints registers, spills, shared
memory and tensor-core instructions, and exits 1 when a gate fails. Otherwise every op is compared on this machine with
the published or plain way of doing the same: seconds and peak memory, medians of alternating runs, after their results
were compared. On a CPU the ops run PyTorch's implementation, and only ratios mean anything; figures of a GPU are marked
as not measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from memory import peak_bytes
from mmscale_kernels import adapter_merge, linear_cross_entropy
from recording import record
from rich.console import Console
from rich.table import Table
from torch import Tensor

Way = Callable[[], list[Tensor]]
"""Does the work, forward and backward; what both ways must agree on."""


def compile_all(dtypes: tuple[str, ...]) -> bool:
    """Print and keep the table of resources; whether every gate holds."""
    from mmscale_kernels.gpu.compilation import TARGETS, compile_for, variants

    found = []
    table = Table("kernel", "target", "registers", "spilled", "shared bytes", "tensor-core instructions", "verdict")
    for variant in variants(dtypes):
        for target in TARGETS:
            taken = compile_for(variant, target)
            found.append(taken)
            verdict = ", ".join(taken.faults) or "fits"
            numbers = (taken.registers, taken.spilled, taken.shared, taken.tensor_cores)
            table.add_row(taken.variant, target, *(f"{number:,}" for number in numbers), verdict)
    Console(width=130).print(table)
    print(record("kernel_resources", {"kernels": [asdict(taken) for taken in found]}))
    return not any(taken.faults for taken in found)


def seconds(ways: dict[str, Way], runs: int) -> dict[str, float]:
    """Median seconds of each way; they take turns, so that what else the machine does hits all alike."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(runs + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:  # the first one warms up
                took[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in took.items()}


def compared(title: str, ways: dict[str, Way], runs: int) -> dict[str, Any]:
    """One row: ours against the other way, once their results agree."""
    (ours, mine), (other, theirs) = ways.items()
    results = [way() for way in ways.values()]
    for a, b in zip(*results, strict=True):
        distance = float((a.double() - b.double()).norm() / b.double().norm())
        if distance > (1e-5 if a.dtype == torch.float32 else 1e-2):
            sys.exit(f"{title}: {ours} and {other} differ by {distance:.1e}")
    took = seconds(ways, runs)
    peaks = {name: peak_bytes(way) for name, way in ((ours, mine), (other, theirs))}
    return {"title": title, "ours": ours, "other": other, "seconds": took, "peak_bytes": peaks}


def adapter(device: torch.device, dtype: torch.dtype, examples: int, width: int, out: int) -> dict[str, Any]:
    """The merge of one packed row against pad, cat, sort and gather of a padded batch, at 40 % padding."""
    torch.manual_seed(0)
    longest, lengths = 100, torch.randint(20, 101, (examples,)).tolist()

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape).to(device, dtype).requires_grad_()

    w1, b1, w2, b2, boundary = (
        values(2 * width, width),
        values(2 * width),
        values(out, 2 * width),
        values(out),
        values(out),
    )
    weights = [w1, b1, w2, b2, boundary]
    states, tokens = values(sum(lengths), width).detach(), values(sum(lengths), out).detach()
    starts = [2 * sum(lengths[:i]) + i for i in range(examples)]
    encoder_rows = torch.cat([torch.arange(s, s + n) for s, n in zip(starts, lengths)]).to(device)
    boundary_rows = torch.tensor([s + n for s, n in zip(starts, lengths)], device=device)
    token_rows = torch.cat([torch.arange(s + n + 1, s + 2 * n + 1) for s, n in zip(starts, lengths)]).to(device)
    upstream = torch.randn(2 * sum(lengths) + examples, out).to(device, dtype)

    def ours() -> list[Tensor]:
        merged = adapter_merge(states, w1, b1, w2, b2, boundary, tokens, token_rows, encoder_rows, boundary_rows)
        return [merged.detach(), *torch.autograd.grad(merged, weights, upstream)]

    def published() -> list[Tensor]:
        padded, text = (
            torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True) for x in (states, tokens)
        )
        mask = torch.arange(longest, device=device)[None] < torch.tensor(lengths, device=device)[:, None]
        padded, text = (F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in (padded, text))
        mapped = F.linear(torch.relu(F.linear(padded, w1, b1)), w2, b2)
        both = torch.cat([mapped, boundary.expand(examples, 1, -1), text], 1)
        kept = torch.cat([mask, torch.ones_like(mask[:, :1]), mask], 1)
        order = kept.int().sort(dim=1, stable=True).indices  # padding to the left
        both = both.gather(1, order[..., None].expand_as(both))
        merged = both[kept.gather(1, order)]
        return [merged.detach(), *torch.autograd.grad(merged, weights, upstream)]

    padding = 1 - sum(lengths) / (examples * longest)
    title = f"adapter and merge, {sum(lengths):,} states of {width}, LLM {out}, {100 * padding:.0f} % padding"
    return compared(title, {"packed op": ours, "pad, cat, sort, gather": published}, 7)


def cross_entropy(
    device: torch.device, dtype: torch.dtype, rows: int, width: int, vocabulary: int, frozen: bool
) -> dict[str, Any]:
    """Through the head in chunks against all logits at once."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width).to(device, dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width) / width**0.5).to(device, dtype).requires_grad_(not frozen)
    targets = torch.randint(vocabulary, (rows,)).to(device)
    leaves = [hidden] if frozen else [hidden, weight]

    def ours() -> list[Tensor]:
        loss = linear_cross_entropy(hidden, weight, targets, chunk_bytes=rows * vocabulary * hidden.element_size() // 8)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    def plain() -> list[Tensor]:
        loss = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    head = "frozen" if frozen else "trained"
    title = f"cross entropy through a {head} head, {rows:,} rows of {width}, vocabulary {vocabulary:,}"
    return compared(title, {"eight chunks": ours, "all logits": plain}, 7)


def compare_all() -> None:
    gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32
    sizes = (512, 2048, 4096, 8192, 4096, 32_000) if gpu else (64, 256, 512, 512, 256, 16_000)
    examples, width, out, rows, hidden, vocabulary = sizes
    found = [adapter(device, dtype, examples, width, out)]
    found += [cross_entropy(device, dtype, rows, hidden, vocabulary, frozen) for frozen in (True, False)]
    table = Table("op", "against", "times as fast", "of its peak memory")
    for one in found:
        took, peaks = one["seconds"], one["peak_bytes"]
        share = f"{100 * peaks[one['ours']] / peaks[one['other']]:.0f} %"
        table.add_row(
            f"{one['title']}: {one['ours']}", one["other"], f"{took[one['other']] / took[one['ours']]:.2f}", share
        )
    Console(width=150).print(table)
    measured = torch.cuda.get_device_name() if gpu else "not measured"
    print(f"{'GPU' if gpu else 'CPU, PyTorch implementation'}; figures of a GPU: {measured}")
    print(record("kernels", {"device": device.type, "gpu": measured, "ops": found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile-only", action="store_true")
    parser.add_argument("--dtypes", nargs="+", default=["bf16", "fp16", "fp32"], choices=["bf16", "fp16", "fp32"])
    chosen = parser.parse_args()
    if chosen.compile_only:
        sys.exit(0 if compile_all(tuple(chosen.dtypes)) else 1)
    compare_all()


if __name__ == "__main__":
    main()
