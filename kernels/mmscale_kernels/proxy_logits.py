"""Proxy-tuning's choice of a token (Liu et al. 2024, arXiv 2401.08565, eq. 1), without writing the combined logits.

    s = base + alpha (expert - anti-expert)
    p = truncated softmax(s / T): top-k, then top-p, then min-p, in transformers' order

A greedy row (T = 0) takes the largest s; a sampled one the largest s / T + Gumbel noise among the tokens that truncation
leaves, which is a draw from p. The noise depends on (seed, row, position, token) alone, so the draw of a vocabulary that
is shared by ranks is the draw of the whole one: each rank sends five numbers per row. Tokens that tie with the last one that
truncation keeps are kept too: the set does not depend on an order. Sizes: N rows, V entries of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mmscale_kernels.dispatch import use_triton
from mmscale_kernels.noise import gumbel
from mmscale_kernels.proxy_parts import FIELDS, Chosen, Draws, Parts, joined_partials


def check(parts: Parts, draws: Draws) -> None:
    """ValueError on shapes that do not fit."""
    rows, width = parts.base.shape
    if (parts.expert is None) != (parts.antiexpert is None):
        raise ValueError("expert and anti-expert come together")
    for name, logits in (("expert", parts.expert), ("anti-expert", parts.antiexpert)):
        if logits is not None and (logits.shape[0] != rows or logits.shape[1] < width):
            raise ValueError(f"the {name}'s logits are {tuple(logits.shape)}, and {rows} x {width} or more are needed")
    if draws.row.shape != (rows,):
        raise ValueError(f"one draw a row is needed: {tuple(draws.row.shape)} draws, {rows} rows")


def thresholds(scaled_NV: Tensor, draws: Draws) -> Tensor:
    """[N]: the smallest s / T that truncation keeps, by sorting; the definition."""
    values = scaled_NV.sort(dim=-1, descending=True).values
    count = values.shape[1]
    last = torch.where(draws.top_k > 0, draws.top_k.clamp(max=count), count) - 1
    threshold = values.gather(1, last[:, None])[:, 0]
    inside = values >= threshold[:, None]
    mass = values.masked_fill(~inside, float("-inf")).softmax(-1)
    before = mass.cumsum(-1) - mass
    kept = ((before < draws.top_p[:, None]) | (draws.top_p[:, None] >= 1)) & inside
    threshold = values.gather(1, (kept.sum(-1, keepdim=True) - 1).clamp(min=0))[:, 0]
    lowest = values[:, 0] + torch.log(draws.min_p.to(values.dtype))  # log 0 = -inf: off
    return torch.maximum(threshold, lowest)


def _scaled(combined_NV: Tensor, draws: Draws) -> Tensor:
    hot = draws.temperature > 0
    return combined_NV / torch.where(hot, draws.temperature, 1.0).to(combined_NV.dtype)[:, None]


def probabilities(parts: Parts, draws: Draws) -> Tensor:
    """p [N, V] that rows are drawn from; all on one token where a row is greedy."""
    combined = parts.combined()
    scaled = _scaled(combined, draws)
    if draws.truncated:
        outside = (scaled < thresholds(scaled, draws)[:, None]) & (draws.temperature > 0)[:, None]
        scaled = scaled.masked_fill(outside, float("-inf"))
    sure = torch.zeros_like(combined).scatter_(1, combined.argmax(-1, keepdim=True), 1.0)
    return torch.where((draws.temperature > 0)[:, None], scaled.softmax(-1), sure)


def _partials_reference(parts: Parts, draws: Draws, first: int) -> Tensor:
    combined = parts.combined()
    found = combined.new_empty(combined.shape[0], FIELDS)
    keys = combined
    if draws.sampled:
        scaled = _scaled(combined, draws)
        noise = gumbel(draws.seed, draws.row, draws.position, first, combined.shape[1])
        keys = torch.where((draws.temperature > 0)[:, None], scaled + noise, combined)
        if draws.truncated:
            outside = (scaled < thresholds(scaled, draws)[:, None]) & (draws.temperature > 0)[:, None]
            keys = keys.masked_fill(outside, float("-inf"))
    best = keys.argmax(-1, keepdim=True)
    found[:, 0] = combined.amax(-1)
    found[:, 1] = (combined - found[:, :1]).exp_().sum(-1)
    found[:, 2], found[:, 3] = keys.gather(1, best)[:, 0], best[:, 0] + first
    found[:, 4] = combined.gather(1, best)[:, 0]
    return found


def partials(parts: Parts, draws: Draws, first: int = 0) -> Tensor:
    """[N, 5] of the entries first..first+V-1 of a vocabulary; see FIELDS."""
    check(parts, draws)
    if not parts.base.numel():  # a rank may hold no entry
        nothing = torch.tensor([float("-inf"), 0, float("-inf"), 0, float("-inf")], device=parts.base.device)
        return nothing.to(torch.promote_types(parts.base.dtype, torch.float32)).repeat(parts.base.shape[0], 1)
    if use_triton(parts.base.device):
        from mmscale_kernels.gpu import proxy_logits as gpu

        return gpu.partials(parts, draws, first)
    return _partials_reference(parts, draws, first)


def proxy_choose(parts: Parts, draws: Draws, first: int = 0, group: Any = None) -> Chosen:
    """Choose a token of every row; with a group, of the vocabulary that its ranks share, the same on each of them.

    `first` is the token of this rank's first entry. Truncation needs the whole vocabulary: ValueError with a group.
    Raises ValueError on shapes that do not fit.
    """
    if group is None and parts.base.numel() and use_triton(parts.base.device):
        from mmscale_kernels.gpu import proxy_logits as gpu

        check(parts, draws)
        return gpu.choose(parts, draws, first)
    own = partials(parts, draws, first)
    if group is None:
        return _chosen(own)
    if draws.truncated:
        raise ValueError("top-k, top-p and min-p need the whole vocabulary: gather the logits first")
    found = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(found, own, group=group)
    return _chosen(joined_partials(torch.stack(found)))


def _chosen(partial_N5: Tensor) -> Chosen:
    largest, total, _, token, logit = partial_N5.unbind(-1)
    log_sum_exp = largest + total.log()
    return Chosen(token.to(torch.int64), logit - log_sum_exp, log_sum_exp)
