"""What the Triton kernels take of a GPU, and how the ops compare with what they replace: mmscale bench kernels

--compile-only compiles every kernel in every dtype for GPUs that need not be here, prints registers, spills, shared
memory and tensor-core instructions, and exits 1 when a gate fails. Otherwise every op is compared on this machine with
the published or plain way of doing the same: seconds and peak memory, medians of alternating runs, after their results
were compared; of short ops also the device's own seconds, replayed in a CUDA graph. On a CPU the ops run PyTorch's implementation, and only ratios mean anything; figures of a GPU are marked
as not measured.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmscale_kernels import Draws, Parts, adapter_merge, linear_cross_entropy, proxy_choose
from mmscale_kernels.linear_cross_entropy import CHUNK_BYTES
from mmscale_kernels.noise import gumbel
from rich.console import Console
from rich.table import Table
from torch import Tensor

from .memory import peak_bytes
from .recording import record
from .timing import Work, graph_seconds, seconds

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


def compared(
    title: str, dtype: torch.dtype, ways: dict[str, Way], runs: int, floor: Work | None = None
) -> dict[str, Any]:
    """One op, whose inputs have a dtype: ours, which stands first, against other ways, once their results agree; beside
    them a floor, such as the products that the op cannot do without. A way without memory for it has no numbers; a way that
    disagrees is named."""
    ours, *others = ways
    found: dict[str, Any] = {"title": title, "ours": ours, "others": others, "out_of_memory": [], "wrong": {}}
    right = ways[ours]()
    bound = agreement(right, dtype)
    right = [value.double() for value in right]
    for other in others:
        try:
            distance = max(_far(a, b) for a, b in zip(ways[other](), right, strict=True))
        except torch.OutOfMemoryError:
            found["out_of_memory"].append(other)
            continue
        if not distance <= bound:
            found["wrong"][other] = distance
    del right
    able: dict[str, Work] = {name: way for name, way in ways.items() if name not in found["out_of_memory"]}
    found["seconds"] = seconds(able | ({"floor": floor} if floor else {}), runs)
    return found | {"peak_bytes": {name: peak_bytes(way) for name, way in able.items()}}


def agreement(results: list[Tensor], worked_in: torch.dtype) -> float:
    """How far results may be from one another: the rounding of what the work is done in, be a result wider; or which share
    of drawn tokens may fall to the other side of a near-tie."""
    if results[0].dtype == torch.int64:
        return 1 / 64
    return 1e-5 if worked_in == torch.float32 else 2e-2


def _far(found: Tensor, right: Tensor) -> float:
    if found.dtype == torch.int64:
        return float((found != right).double().mean())
    return float((found.double() - right).norm() / right.norm())


def roofs(device: torch.device, dtype: torch.dtype, size: int) -> dict[str, float]:
    """What this machine can do at most: bytes per second of a copy, read and written, and operations per second of a product."""
    source, square = (
        torch.randn(size * size, device=device, dtype=dtype),
        torch.randn(size, size, device=device, dtype=dtype),
    )
    target = torch.empty_like(source)

    took = seconds({"copy": lambda: target.copy_(source), "product": lambda: square @ square}, 9)
    moved = 2 * source.numel() * source.element_size()
    return {"copy_bytes_per_s": moved / took["copy"], "operations_per_s": 2 * size**3 / took["product"]}


def adapter(device: torch.device, dtype: torch.dtype, examples: int, width: int, out: int) -> dict[str, Any]:
    """The merge of one packed row against pad, cat, sort and gather of a padded batch, at 40 % padding."""
    torch.manual_seed(0)
    longest, lengths = 100, torch.randint(20, 101, (examples,)).tolist()

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype).requires_grad_()

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
    upstream = torch.randn(2 * sum(lengths) + examples, out, device=device, dtype=dtype)

    def forward() -> Tensor:
        return adapter_merge(states, w1, b1, w2, b2, boundary, tokens, token_rows, encoder_rows, boundary_rows)

    def ours() -> list[Tensor]:
        merged = forward()
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

    mapped, d_hidden = states.new_empty(sum(lengths), out), states.new_empty(sum(lengths), 2 * width)

    def forward_products() -> list[Tensor]:
        hidden = states @ w1.detach().T
        return [hidden, hidden @ w2.detach().T]

    def backward_products(hidden: Tensor) -> list[Tensor]:
        return [mapped @ w2.detach(), mapped.T @ hidden, d_hidden.T @ states]

    def products() -> list[Tensor]:
        return backward_products(forward_products()[0])

    mapped.normal_()
    d_hidden.normal_()
    padding = 1 - sum(lengths) / (examples * longest)
    title = f"adapter and merge, {sum(lengths):,} states of {width}, LLM {out}, {100 * padding:.0f} % padding"
    found = compared(title, dtype, {"packed op": ours, "pad, cat, sort, gather": published}, 7, products)
    merged, hidden = forward(), forward_products()[0]
    passes: dict[str, Work] = {
        "forward": forward,
        "forward, its products": forward_products,
        "backward": lambda: torch.autograd.grad(merged, weights, upstream, retain_graph=True),
        "backward, its products": lambda: backward_products(hidden),
    }
    return found | {"pass_seconds": seconds(passes, 7)}


def cross_entropy(
    device: torch.device, dtype: torch.dtype, rows: int, width: int, vocabulary: int, frozen: bool
) -> dict[str, Any]:
    """Through the head in chunks against all logits at once."""
    torch.manual_seed(0)
    hidden = torch.randn(rows, width, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(vocabulary, width, device=device, dtype=dtype) / width**0.5).requires_grad_(not frozen)
    targets = torch.randint(vocabulary, (rows,), device=device)
    leaves = [hidden] if frozen else [hidden, weight]

    def ours(chunk_bytes: int = CHUNK_BYTES) -> list[Tensor]:
        loss = linear_cross_entropy(hidden, weight, targets, chunk_bytes=chunk_bytes)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    def plain() -> list[Tensor]:
        loss = F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="sum")
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    ways: dict[str, Way] = {"chunks": ours, "chunks of 1 GiB": partial(ours, chunk_bytes=2**30), "all logits": plain}
    if device.type == "cuda":  # neither is worth its compilation on a CPU
        ways["torch.compile"] = torch.compile(plain)
        ways |= _liger(hidden, weight, targets, leaves)
    head = "frozen" if frozen else "trained"
    title = f"cross entropy through a {head} head, {rows:,} rows of {width}, vocabulary {vocabulary:,}"
    return compared(title, dtype, ways, 7)


def _liger(hidden: Tensor, weight: Tensor, targets: Tensor, leaves: list[Tensor]) -> dict[str, Way]:
    """Liger-Kernel's fused linear cross entropy (Hsu et al. 2024, arXiv 2410.10989), where it is installed."""
    if importlib.util.find_spec("liger_kernel") is None:
        return {}
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss_of = LigerFusedLinearCrossEntropyLoss(reduction="sum")

    def liger() -> list[Tensor]:
        loss = loss_of(weight, hidden, targets)
        return [loss.detach(), *torch.autograd.grad(loss, leaves)]

    return {"Liger-Kernel": liger}


def proxy_logits(
    device: torch.device, dtype: torch.dtype, rows: int, vocabulary: int, settings: dict[str, float]
) -> dict[str, Any]:
    """A proxy-tuned token of every row: our op against combining, warping by a sort and drawing with the same noise."""
    torch.manual_seed(0)
    base, expert, antiexpert = (4 * torch.randn(rows, vocabulary, device=device, dtype=dtype) for _ in range(3))
    temperature, top_p = settings.get("temperature", 0.0), settings.get("top_p", 1.0)
    places = torch.arange(rows, device=device)

    def full(value: float, kind: torch.dtype) -> Tensor:
        return torch.full((rows,), value, dtype=kind, device=device)

    how = Draws(
        full(temperature, torch.float32),
        full(0, torch.int64),
        full(top_p, torch.float32),
        full(0, torch.float32),
        full(3, torch.int64),
        places,
        places,
        sampled=temperature > 0,
        truncated=top_p < 1,
    )

    def ours() -> list[Tensor]:
        return [proxy_choose(Parts(base, expert, antiexpert, 1.0), how).token]

    def sorting() -> list[Tensor]:
        scores = base.float() + (expert.float() - antiexpert.float())
        if not temperature:
            return [scores.argmax(-1)]
        scores = scores / temperature
        if top_p < 1:
            ordered, order = scores.sort(descending=False)
            outside = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
            scores = scores.masked_fill(outside.scatter(1, order, outside), float("-inf"))
        return [(scores + gumbel(how.seed, how.row, how.position, 0, vocabulary)).argmax(-1)]

    kind = "greedy" if not temperature else ("top-p" if top_p < 1 else "sampled")
    title = f"proxy logits, {kind}, {rows} rows of {vocabulary:,}"
    found = compared(title, dtype, {"one pass": ours, "combined, sorted": sorting}, 7)
    return found | {"bytes_read": 3 * base.numel() * base.element_size()} | _in_a_graph(ours)


def _in_a_graph(way: Way) -> dict[str, Any]:
    """Seconds of the device alone, or why there are none."""
    try:
        return {"graph_seconds": graph_seconds(way, 7)}
    except RuntimeError as error:
        print(f"no CUDA graph: {error}", file=sys.stderr)
        return {"graph_seconds": None, "not_captured": str(error)}


Measurement = partial[dict[str, Any]]


def measurements(device: torch.device, dtype: torch.dtype) -> list[Measurement]:
    """What is compared, in this order; sizes for a GPU, or for a CPU."""
    gpu = device.type == "cuda"
    examples, width, out = ((136, 1092), 2048, 4096) if gpu else ((64,), 256, 512)
    rows, hidden, vocabularies = (8192, 4096, (32_000, 128_256)) if gpu else (512, 256, (16_000,))
    batches, words = ((256, 8), 128_256) if gpu else ((8,), 16_000)
    warps: tuple[dict[str, float], ...] = ({}, {"temperature": 0.8}, {"temperature": 0.8, "top_p": 0.9})
    heads = [(vocabulary, True) for vocabulary in vocabularies] + [(vocabularies[0], False)]
    return [
        *(partial(adapter, device, dtype, count, width, out) for count in examples),
        *(partial(cross_entropy, device, dtype, rows, hidden, *head) for head in heads),
        # last: a graph that could not be captured may leave the allocator in disorder
        *(partial(proxy_logits, device, dtype, batch, words, warp) for batch in batches for warp in warps),
    ]


def compare_all() -> None:
    """Every row is kept as soon as it is measured."""
    gpu = torch.cuda.is_available()
    device, dtype = torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if gpu else torch.float32
    roof, found = roofs(device, dtype, 8192 if gpu else 1024), []
    measured = torch.cuda.get_device_name() if gpu else "not measured"
    for measure in measurements(device, dtype):
        try:
            found.append(measure())
        except torch.OutOfMemoryError as error:
            found.append(
                {
                    "title": f"{measure.func.__name__} {measure.args[2:]}",
                    "ours": "",
                    "others": [],
                    "out_of_memory": str(error),
                }
            )
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
        path = record("kernels", {"device": device.type, "gpu": measured, "roofs": roof, "ops": found})
    show(found, roof)
    print(f"{'GPU' if gpu else 'CPU, PyTorch implementation'}; figures of a GPU: {measured}\n{path}")
    wrong = [
        f"{one['title']}: {other} differs by {far:.1e}" for one in found for other, far in one.get("wrong", {}).items()
    ]
    if wrong:
        sys.exit("; ".join(wrong))


def show(found: list[dict[str, Any]], roof: dict[str, float]) -> None:
    print(
        f"roofs of this run: copy {roof['copy_bytes_per_s'] / 1e12:.2f} TB/s, product {roof['operations_per_s'] / 1e12:.1f} TFLOP/s"
    )
    table = Table("op", "ms", "against", "times as fast", "of its peak memory", "floor over ours")
    for one in found:
        if not one["ours"]:
            table.add_row(one["title"], "out of memory")
            continue
        took, peaks, ours = one["seconds"], one["peak_bytes"], one["ours"]
        floor = one["bytes_read"] / roof["copy_bytes_per_s"] if "bytes_read" in one else took.get("floor")
        alone = one.get("graph_seconds") or took[ours]  # a short op is over before the next one was started
        reached = f"{100 * floor / alone:.0f} %" if floor else ""
        for other in one["others"]:
            if other in one["out_of_memory"]:
                table.add_row(one["title"], f"{1e3 * took[ours]:.3f}", other, "out of memory", "", reached)
                continue
            share = f"{100 * peaks[ours] / peaks[other]:.0f} %" if peaks[other] else ""
            table.add_row(
                one["title"], f"{1e3 * took[ours]:.3f}", other, f"{took[other] / took[ours]:.2f}", share, reached
            )
    Console(width=170).print(table)


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
