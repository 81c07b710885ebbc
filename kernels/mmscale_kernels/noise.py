"""Counter-based noise: the same number for (seed, row, position, token), on any device and however the vocabulary is cut.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", section 4.1); counter (token // 4, row,
position, stream), key (seed's low and high 32 bits), output token % 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

ROUND_A, ROUND_B = 0xD2511F53, 0xCD9E8D57
KEY_A, KEY_B = 0x9E3779B9, 0xBB67AE85
"""Multipliers and Weyl constants of the paper's table 2."""
_LOW = 0xFFFFFFFF
GUMBEL, ACCEPT, RESIDUAL = 0, 1, 2
"""Streams: the noise of a draw, of an acceptance, and of a draw from what a rejection leaves."""
ALMOST_ONE = 1 - 2**-24


def _product(number: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits; int64 holds the product's bits, and the mask drops what its sign shifted in."""
    product = values * number
    return (product >> 32) & _LOW, product & _LOW


def philox(keys: tuple[Tensor, Tensor], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words of 32 bits, in int64, for each counter; all arguments int64 in 0..2^32-1, broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = keys
    for _ in range(10):
        high_b, low_b = _product(ROUND_B, c2)
        high_a, low_a = _product(ROUND_A, c0)
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, low_b, high_a ^ c3 ^ k1, low_a
        k0, k1 = (k0 + KEY_A) & _LOW, (k1 + KEY_B) & _LOW
    return c0, c1, c2, c3


def _words(seeds_N: Tensor, rows_N: Tensor, positions_N: Tensor, first: int, count: int, stream: int) -> Tensor:
    """int64 [N, count]: the word of each token from `first` on."""
    begin, end = first // 4, -(-(first + count) // 4)
    groups = torch.arange(begin, end, device=seeds_N.device)[None]

    def column(values: Tensor) -> Tensor:
        return (values & _LOW)[:, None]

    counter = groups, column(rows_N), column(positions_N), torch.full_like(groups, stream)
    words = torch.stack(
        torch.broadcast_tensors(*philox((column(seeds_N), column(seeds_N >> 32)), counter)), dim=-1
    ).flatten(1)
    return words[:, first - 4 * begin :][:, :count]


def uniform(seeds_N: Tensor, rows_N: Tensor, positions_N: Tensor, stream: int) -> Tensor:
    """float32 [N] in (0, 1): one number for each row and position."""
    words = _words(seeds_N, rows_N, positions_N, 0, 1, stream)[:, 0]
    return ((words.float() + 0.5) * 2.0**-32).clamp_(max=ALMOST_ONE)


def gumbel(
    seeds_N: Tensor, rows_N: Tensor, positions_N: Tensor, first: int, count: int, stream: int = GUMBEL
) -> Tensor:
    """float32 [N, count]: standard Gumbel noise of tokens first..first+count-1.

    -log E of an exponential E = -log(1 - v): v is the small side of the uniform number, where float32 is dense, so that the
    tail that decides draws from large vocabularies is fine-grained.
    """
    words = _words(seeds_N, rows_N, positions_N, first, count, stream)
    v = ((words.float() + 0.5) * 2.0**-32).clamp_(max=ALMOST_ONE)
    series = v * (1 + v * (0.5 + v * (1 / 3 + v * 0.25)))
    return -torch.log(torch.where(v < 2.0**-7, series, -torch.log(1 - v)))
