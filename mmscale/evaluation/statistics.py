"""Intervals and paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


def wilson_interval(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share p of n (Wilson 1927), of quantile z; (0, 1) of nothing:
    (p + z^2 / 2n ± z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    if n == 0:
        return 0.0, 1.0
    z, share = NormalDist().inv_cdf(0.5 + confidence / 2), correct / n
    centre, width = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((centre + sign * width) / (1 + z * z / n) for sign in (-1, 1))
    return (0.0 if correct == 0 else low), (1.0 if correct == n else high)


@dataclass(frozen=True)
class PairedDifference:
    """Accuracy of b minus accuracy of a on the same rows."""

    difference: float
    interval: tuple[float, float]
    p_value: float
    """Two-sided, from the bootstrap distribution; at least 2 / (samples + 1), since more was not looked at."""
    n: int


def paired_bootstrap(
    a: Sequence[bool], b: Sequence[bool], confidence: float = 0.95, samples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Percentile interval of mean(b) - mean(a) by resampling rows with both verdicts (Koehn 2004)."""
    import numpy as np  # scoring needs none

    if len(a) != len(b) or not a:
        raise ValueError(f"paired samples must have the same rows: {len(a)} and {len(b)}")
    differences = np.asarray(b, dtype=float) - np.asarray(a, dtype=float)
    generator = np.random.default_rng(seed)
    n = len(differences)
    means = np.concatenate(
        [differences[generator.integers(0, n, size=(500, n))].mean(axis=1) for _ in range(max(1, samples // 500))]
    )
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    p = 2 * min((means <= 0).sum() + 1, (means >= 0).sum() + 1) / (len(means) + 1)
    return PairedDifference(float(differences.mean()), (float(low), float(high)), float(min(1.0, p)), n)


@dataclass(frozen=True)
class GapClosed:
    """(b - a) / (c - a) of three accuracies on the same rows: how much of c's gain over a has b."""

    share: float
    interval: tuple[float, float]


def gap_closed(
    a: Sequence[bool],
    b: Sequence[bool],
    c: Sequence[bool],
    confidence: float = 0.95,
    samples: int = 4000,
    seed: int = 0,
) -> GapClosed | None:
    """Percentile interval by resampling rows with all three verdicts; None where c has no gain over a."""
    import numpy as np

    verdicts = np.asarray([a, b, c], dtype=float)
    if verdicts[2].mean() <= verdicts[0].mean():
        return None
    generator, n = np.random.default_rng(seed), verdicts.shape[1]
    means = np.stack([verdicts[:, generator.integers(0, n, n)].mean(1) for _ in range(samples)])
    gains = means[:, 2] - means[:, 0]
    shares = (means[:, 1] - means[:, 0])[gains > 0] / gains[gains > 0]
    tail = (1 - confidence) / 2
    low, high = np.quantile(shares, [tail, 1 - tail])
    whole = verdicts.mean(1)
    return GapClosed(float((whole[1] - whole[0]) / (whole[2] - whole[0])), (float(low), float(high)))
