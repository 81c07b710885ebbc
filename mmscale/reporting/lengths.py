"""Token lengths per language: a histogram as text and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmscale.storage.files import atomic_write

_BINS = 40
_BLOCKS = " ▁▂▃▄▅▆▇█"


def _scale(lengths: Mapping[str, Sequence[int]]) -> float:
    """Right end of the common scale: a few outliers must not flatten the rest; they fall into the last column."""
    return max(min(max(values), 1.3 * float(np.percentile(values, 99))) for values in lengths.values())


def text_histogram(lengths: Mapping[str, Sequence[int]]) -> str:
    """One line per language: rows, mean, median, 99th percentile, longest, and its distribution on one common scale."""
    top = round(_scale(lengths))
    edges = np.linspace(0, top + 1, _BINS + 1)
    lines = [f"{'':4} {'rows':>7} {'mean':>7} {'p50':>6} {'p99':>6} {'max':>6}  0 … {top} tokens and more"]
    for code, values in lengths.items():
        counts, _ = np.histogram(np.minimum(values, top), edges)
        blocks = "".join(_BLOCKS[int(np.ceil(8 * count / counts.max()))] for count in counts)
        p50, p99 = np.percentile(values, [50, 99])
        lines.append(f"{code:4} {len(values):7} {np.mean(values):7.1f} {p50:6.0f} {p99:6.0f} {max(values):6}  {blocks}")
    return "\n".join(lines)


def picture(lengths: Mapping[str, Sequence[int]], path: Path, what: str) -> None:
    """The same as a PNG: one row of axes per language, shared scale."""
    from matplotlib.figure import Figure  # imports slowly

    figure = Figure(figsize=(7, 0.9 + 0.62 * len(lengths)), layout="constrained")
    axes = figure.subplots(len(lengths), 1, sharex=True, squeeze=False)[:, 0]
    top = round(_scale(lengths))
    for axis, (code, values) in zip(axes, lengths.items(), strict=True):
        axis.hist(np.minimum(values, top).tolist(), bins=np.linspace(0, top + 1, 60).tolist(), color="#3366aa")
        axis.axvline(float(np.median(values)), color="#cc4422", linewidth=1.2)
        axis.set_ylabel(code, rotation=0, ha="right", va="center")
        axis.set_yticks([])
    axes[-1].set_xlabel(f"tokens of {what} (red: median)")
    with atomic_write(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=130)
