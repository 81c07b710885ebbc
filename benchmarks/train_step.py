"""A MindMerger augmentation step, ours against the authors' way of training: mmscale bench train-step

The same examples, models and optimizer: a batch of problems through the frozen encoder, the trained mapping and the frozen
LLM: tinyworld's by default, or random weights of a published shape and lengths like MGSM's (--shape 7b, for a GPU). The
first way is how MindMerger's authors train: micro-batches of 2 (math; 8 for other tasks) whose gradients are accumulated,
SDPA, columns that are padding in every row cut, the encoder in every step, logits of every position. Ours is put together
one part at a time. Losses of a step (mean of its target tokens; the authors' own mean of micro-batch means differs) and
gradients of the mapping have to agree before anything is timed; times are medians of steps that take turns. A way that does
not fit is a row that says so. On a CPU only the ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mmscale.planning.tracing import RowWork, trace

from .memory import OUT_OF_MEMORY, peak_bytes, release
from .recording import record
from .shapes import dtype_on
from .step_setup import SHAPES, StepSetup, random_weights, tinyworld
from .step_ways import AUTHORS_2, AUTHORS_8, OURS, StepWay, ways_of
from .step_work import StepWork, merged_length, peak_tflops, step_work

LOSS_AGREES = {torch.float32: 1e-3}
"""Largest difference of losses; 1e-2 in 16 bits."""


def gradient_agrees(setup: StepSetup) -> float:
    """Largest distance of two ways' gradients, relative to their norm.

    A layer rounds some 16 times on the way forward and as often back, each time by up to half of eps; roundings are as
    good as random, and both ways have theirs: sqrt(2 x 32 layers) x eps / 2. Left padding moves the rotary positions, whose
    float32 angles are off by up to position x eps / 2, in queries and keys, in both ways: 2 x longest x eps / 2.
    """
    layers = int(setup.model.language_model.config.num_hidden_layers)
    longest = max(merged_length(one) for examples in setup.plain for one in examples)
    rounded = math.sqrt(2 * 32 * layers) * torch.finfo(setup.dtype).eps / 2
    return rounded + longest * torch.finfo(torch.float32).eps


@dataclass
class MeasuredWay:
    """What is known of a way so far; None where it was not measured."""

    way: StepWay
    weights_bytes: int
    """Models that it needs in memory."""
    failure: str | None = None
    loss: float | None = None
    """The first batch's."""
    gradient_distance: float | None = None
    peak_bytes: int | None = None
    """Beyond the weights."""
    seconds: list[float] = field(default_factory=list)
    work: list[StepWork] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return statistics.median(self.seconds) if self.seconds and self.failure is None else None


class StepComparison:
    """All ways on one setup; `save` is told after everything that was measured."""

    def __init__(
        self, setup: StepSetup, device: torch.device, ways: list[StepWay], save: Callable[[list[MeasuredWay]], None]
    ):
        self.setup, self.device, self.save = setup, device, save
        self.measured = [MeasuredWay(way, _weights_bytes(setup, way)) for way in ways]
        # steps that move nothing, so that every loss of a batch can be compared
        self.optimizer = torch.optim.AdamW(setup.connector.parameters(), lr=0.0, weight_decay=0.0)
        self.losses: dict[int, float] = {}
        """Each batch's, by the first way that ran it."""
        self.gradient: list[Tensor] | None = None
        """The first batch's, likewise."""

    def _guarded(self, one: MeasuredWay, action: Callable[[], object]) -> None:
        """A way that fails keeps the reason, and its memory is given back; the others go on."""
        try:
            action()
        except torch.OutOfMemoryError:
            one.failure = OUT_OF_MEMORY
        except Exception as error:  # whatever it is: the others are still worth measuring, and it is told
            traceback.print_exc()
            one.failure = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if one.failure is not None:
            self.optimizer.zero_grad(set_to_none=True)
            release()
        self.save(self.measured)

    def agree(self) -> None:
        """Loss, gradient and peak of the first batch; a way with another loss or gradient than the first is not timed."""
        for one in self.measured:
            self._guarded(one, lambda one=one: self._first(one))  # type: ignore[misc]
        self.optimizer.zero_grad(set_to_none=True)
        self.gradient = None

    def _first(self, one: MeasuredWay) -> None:
        losses: list[float] = []
        self.optimizer.zero_grad(set_to_none=True)
        one.peak_bytes = peak_bytes(lambda: losses.append(float(one.way.step(self._seen(one, 0)))))
        one.loss = losses[0]
        gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.setup.connector.parameters()]
        if self.gradient is None:
            self.gradient = [part.clone() for part in gradient]
        one.gradient_distance = max(
            float((part - first).norm() / first.norm()) for part, first in zip(gradient, self.gradient, strict=True)
        )
        self._compare_loss(one, 0, one.loss)
        if not one.gradient_distance <= gradient_agrees(self.setup):
            one.failure = f"another gradient of the mapping than the first way, by {one.gradient_distance:.1e}"

    def _compare_loss(self, one: MeasuredWay, number: int, loss: float) -> None:
        first = self.losses.setdefault(number, loss)
        if not abs(loss - first) <= LOSS_AGREES.get(self.setup.dtype, 1e-2):
            one.failure = f"another loss than the first way, by {abs(loss - first):.1e}"

    def _seen(self, one: MeasuredWay, number: int) -> Any:
        return (self.setup.states if one.way.cached else self.setup.plain)[number]

    def take_turns(self, seconds: float) -> None:
        """One step of every way on every batch, one after another; no new round once `seconds` are over."""
        began = time.perf_counter()
        for number in range(len(self.setup.plain)):
            if number and time.perf_counter() - began > seconds:
                break
            for one in self.measured:
                if one.failure is None:
                    self._guarded(one, lambda one=one, number=number: self._timed(one, number))  # type: ignore[misc]

    def _timed(self, one: MeasuredWay, number: int) -> None:
        examples = self._seen(one, number)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        started = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss = one.way.step(examples)
        self.optimizer.step()
        value = float(loss)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        one.seconds.append(time.perf_counter() - started)
        one.work.append(step_work(self.setup, examples))
        self._compare_loss(one, number, value)


def _weights_bytes(setup: StepSetup, way: StepWay) -> int:
    parts = [setup.model.language_model, setup.connector, *([] if way.cached else [setup.model.encoder])]
    return sum(p.numel() * p.element_size() for part in parts if part is not None for p in part.parameters())


def rows_that_fit(setup: StepSetup, device: torch.device) -> int:
    """Tokens of a packed row: 8,192, as configurations have, or the half, quarter or eighth of it that fits.

    What a row keeps is traced for our layers; transformers' keep up to half as much again (docs/performance.md), and logits
    of every position in float32, their gradient and 16 bits beside. A tenth is left to fragments.
    """
    most = 8192
    if device.type != "cuda":
        return most
    release()
    free, config = torch.cuda.mem_get_info(device)[0], setup.model.language_model.config
    while most > 1024:
        work = RowWork(tokens=most, targets=most, dtype=setup.dtype, trained=False, checkpointing=False, flash=False)
        if 1.5 * trace(config, work).peak + 12 * most * int(config.vocab_size) < 0.9 * free:
            break
        most //= 2
    return most


def _row(one: MeasuredWay, baseline: MeasuredWay, peak: float | None) -> dict[str, Any]:
    took, first = one.median, baseline.median
    total = sum(one.seconds)
    needed = sum(work.needed for work in one.work)
    speed = needed / total / 1e12 if took is not None else None
    with_encoder = needed + (0 if one.way.cached else sum(work.encoder for work in one.work))
    known = one.failure is None and one.peak_bytes is not None and baseline.peak_bytes is not None
    return {
        "way": one.way.name,
        "failure": one.failure,
        "loss": one.loss,
        "gradient_distance": one.gradient_distance,
        "seconds": took,
        "steps": len(one.seconds),
        "peak_bytes": one.peak_bytes if one.failure is None else None,
        "weights_bytes": one.weights_bytes,
        "tokens_per_s": sum(work.tokens for work in one.work) / total if took is not None else None,
        "tflops": speed,
        "mfu": speed / peak if speed is not None and peak is not None else None,
        "mfu_with_encoder": with_encoder / total / 1e12 / peak if took is not None and peak is not None else None,
        "times_as_fast": first / took if took is not None and first is not None else None,
        "share_of_peak": (one.peak_bytes or 0) / (baseline.peak_bytes or 1) if known else None,
    }


BASELINE = (
    "MindMerger's authors' way of training: micro-batches of 2 examples (8 in their other tasks), gradients accumulated, SDPA, columns of "
    "padding cut, encoder in every step, logits of every position, each micro-batch's loss read; dropout of their encoder, their optimizer "
    "on the host and cuDNN's attention, which their torch 2.2 had not, left out"
)


def _document(rows: list[dict[str, Any]], setup: StepSetup, chosen: argparse.Namespace) -> dict[str, Any]:
    by_name = {row["way"]: row for row in rows}
    ours, other = by_name[OURS], by_name[AUTHORS_8]
    device = next(setup.model.language_model.parameters()).device
    pair = (other["seconds"], ours["seconds"])
    work = step_work(setup, setup.plain[0])
    return {
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else "not measured",
        "shape": chosen.shape,
        "dtype": str(setup.dtype).removeprefix("torch."),
        "batch": chosen.batch,
        "row_tokens": chosen.row_tokens,
        "first_batch": {
            "tokens": work.tokens,
            "targets": work.targets,
            "operations": {"llm": work.llm, "connector": work.connector, "encoder": work.encoder},
        },
        "peak_tflops": peak_tflops(device),
        "speedup": ours["times_as_fast"],
        "speedup_over_micro_batch_8": pair[0] / pair[1] if None not in pair else None,
        "share_of_peak": ours["share_of_peak"],
        "baseline": BASELINE,
        "ways": rows,
    }


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def show(document: dict[str, Any]) -> None:
    table = Table("way", "loss", "s", "times as fast", "of its peak memory", "GiB with weights", "MFU")
    for row in document["ways"]:
        peak = row["peak_bytes"]
        whole = None if peak is None else (peak + row["weights_bytes"]) / 2**30
        table.add_row(
            row["way"],
            row["failure"] or _shown(row["loss"], ".4f"),
            _shown(row["seconds"], ".3f"),
            _shown(row["times_as_fast"], ".2f"),
            _shown(row["share_of_peak"], ".0%"),
            _shown(whole, ".2f"),
            _shown(row["mfu"], ".1%"),
        )
    Console(width=140).print(table)
    print(f"{document['device']}; figures of a GPU: {document['gpu']}; rows of at most {document['row_tokens']} tokens")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="tinyworld", choices=["tinyworld", *SHAPES], help="of the models")
    parser.add_argument("--batch", type=int, default=64, help="examples of a step")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument(
        "--row-tokens", type=int, help="tokens of a packed row; by default 8192, or fewer where memory is"
    )
    parser.add_argument("--seconds", type=float, help="no new round of steps once so many are over; 30 on a GPU")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of random weights; by default the device's")
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of a table")
    return parser.parse_args()


def main() -> None:
    chosen = _options()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as name:
        if chosen.shape == "tinyworld":
            setup = tinyworld(device, chosen.batch, chosen.batches, Path(name))
        else:
            dtype = getattr(torch, chosen.dtype) if chosen.dtype else dtype_on(device)
            setup = random_weights(chosen.shape, device, dtype, chosen.batch, chosen.batches)
    chosen.row_tokens = chosen.row_tokens or rows_that_fit(setup, device)
    file = "train_step" if chosen.shape == "tinyworld" else f"train_step_{chosen.shape}"
    document: dict[str, Any] = {}
    path = Path()

    def save(measured: list[MeasuredWay]) -> None:
        nonlocal path
        baseline = next(one for one in measured if one.way.name == AUTHORS_2)
        document.update(_document([_row(one, baseline, peak_tflops(device)) for one in measured], setup, chosen))
        path = record(file, document)

    comparison = StepComparison(setup, device, ways_of(setup, device, chosen.row_tokens), save)
    comparison.agree()
    comparison.take_turns(chosen.seconds or (30 if device.type == "cuda" else 600))
    if chosen.json:
        print(json.dumps(document, indent=2))
    else:
        show(document)
        print(path)
    wrong = [
        f"{one.way.name}: {one.failure}" for one in comparison.measured if one.failure not in (None, OUT_OF_MEMORY)
    ]
    if wrong:
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
