"""MindMerger's mapping (arXiv 2405.17386, section 3.1), written straight into the LLM's packed input.

    merged[encoder_rows[e]]  = W2 relu(W1 x_e + b1) + b2
    merged[boundary_rows[b]] = boundary
    merged[token_rows[n]]    = tokens[n]

The three index vectors partition 0..T-1: every merged row is written once. The published code (pad, cat, sort, boolean
gather) moves the same rows two to four times. Sizes: E encoder states of width K, H hidden,
D the LLM's width, N tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmscale_kernels.adapter_choice import TORCH, Shape, choose


def adapter_merge_reference(
    states_EK: Tensor,
    w1_HK: Tensor,
    b1_H: Tensor,
    w2_DH: Tensor,
    b2_D: Tensor,
    boundary_D: Tensor,
    tokens_ND: Tensor,
    token_rows: Tensor,
    encoder_rows: Tensor,
    boundary_rows: Tensor,
) -> Tensor:
    """The definition, by concatenation and one scatter; for tests."""
    mapped = F.linear(torch.relu(F.linear(states_EK, w1_HK, b1_H)), w2_DH, b2_D)
    kind = tokens_ND.dtype
    source = torch.cat([tokens_ND, mapped.to(kind), boundary_D.to(kind).expand(boundary_rows.numel(), -1)])
    return torch.empty_like(source).index_copy(0, torch.cat([token_rows, encoder_rows, boundary_rows]), source)


def adapter_merge(
    states_EK: Tensor,
    w1_HK: Tensor,
    b1_H: Tensor,
    w2_DH: Tensor,
    b2_D: Tensor,
    boundary_D: Tensor,
    tokens_ND: Tensor,
    token_rows: Tensor,
    encoder_rows: Tensor,
    boundary_rows: Tensor,
) -> Tensor:
    """Merged LLM input [T, D] in the tokens' dtype.

    The products run in the weights' dtype, or in autocast's; rows int64. Gradients for everything but the rows. Raises
    ValueError on shapes that do not fit.
    """
    device = states_EK.device.type
    if torch.is_autocast_enabled(device):
        low = torch.get_autocast_dtype(device)
        w1_HK, b1_H, w2_DH, b2_D = w1_HK.to(low), b1_H.to(low), w2_DH.to(low), b2_D.to(low)
    states_EK, boundary_D = states_EK.to(w1_HK.dtype), boundary_D.to(tokens_ND.dtype)
    values = (states_EK, w1_HK, b1_H, w2_DH, b2_D, boundary_D, tokens_ND)
    _check(*values, token_rows, encoder_rows, boundary_rows)
    with torch.autocast(device, enabled=False):
        merged: Tensor = _adapter(*values, token_rows, encoder_rows, boundary_rows)[0]
    return merged


def _check(
    states_EK: Tensor,
    w1_HK: Tensor,
    b1_H: Tensor,
    w2_DH: Tensor,
    b2_D: Tensor,
    boundary_D: Tensor,
    tokens_ND: Tensor,
    token_rows: Tensor,
    encoder_rows: Tensor,
    boundary_rows: Tensor,
) -> None:
    (hidden, width), out = w1_HK.shape, w2_DH.shape[0]
    fits = states_EK.shape[1:] == (width,) and b1_H.shape == (hidden,) and w2_DH.shape == (out, hidden)
    if not fits or b2_D.shape != (out,):
        raise ValueError(
            f"the mapping's shapes do not fit: states {tuple(states_EK.shape)}, W1 {tuple(w1_HK.shape)}, b1 "
            f"{tuple(b1_H.shape)}, W2 {tuple(w2_DH.shape)}, b2 {tuple(b2_D.shape)}"
        )
    if tokens_ND.shape[1:] != (out,) or boundary_D.shape != (out,):
        raise ValueError(
            f"widths differ: mapped {out}, tokens {tokens_ND.shape[1]}, boundary {tuple(boundary_D.shape)}"
        )
    if tokens_ND.shape[0] != token_rows.numel() or states_EK.shape[0] != encoder_rows.numel():
        raise ValueError("one place is needed for each token row and each mapped row")


def _ways(states_EK: Tensor, w2_DH: Tensor) -> tuple[str, str]:
    (count, width), (out, hidden) = states_EK.shape, w2_DH.shape
    return choose(states_EK.device, states_EK.dtype, Shape(count, width, hidden, out))


@torch.library.custom_op("mmscale::adapter", mutates_args=())
def _adapter(
    states_EK: Tensor,
    w1_HK: Tensor,
    b1_H: Tensor,
    w2_DH: Tensor,
    b2_D: Tensor,
    boundary_D: Tensor,
    tokens_ND: Tensor,
    token_rows: Tensor,
    encoder_rows: Tensor,
    boundary_rows: Tensor,
) -> tuple[Tensor, Tensor]:
    """(merged [T, D], hidden [E, H] for the backward pass)."""
    way = _ways(states_EK, w2_DH)[0]
    if way != TORCH:
        from mmscale_kernels.gpu import adapter as gpu

        values = (states_EK, w1_HK, b1_H, w2_DH, b2_D, boundary_D, tokens_ND)
        return gpu.forward(*values, token_rows, encoder_rows, boundary_rows, way)
    merged = tokens_ND.new_empty(token_rows.numel() + encoder_rows.numel() + boundary_rows.numel(), tokens_ND.shape[1])
    hidden = torch.addmm(b1_H, states_EK, w1_HK.T).relu_()
    merged.index_copy_(0, encoder_rows, torch.addmm(b2_D, hidden, w2_DH.T).to(merged.dtype))
    merged.index_copy_(0, token_rows, tokens_ND)
    merged[boundary_rows] = boundary_D
    return merged, hidden


@_adapter.register_fake
def _(
    states_EK: Tensor,
    w1_HK: Tensor,
    b1_H: Tensor,
    w2_DH: Tensor,
    b2_D: Tensor,
    boundary_D: Tensor,
    tokens_ND: Tensor,
    token_rows: Tensor,
    encoder_rows: Tensor,
    boundary_rows: Tensor,
) -> tuple[Tensor, Tensor]:
    count = token_rows.shape[0] + encoder_rows.shape[0] + boundary_rows.shape[0]
    return tokens_ND.new_empty(count, tokens_ND.shape[1]), states_EK.new_empty(states_EK.shape[0], w1_HK.shape[0])


@torch.library.custom_op("mmscale::adapter_backward", mutates_args=())
def _adapter_backward(
    d_merged_TD: Tensor,
    states_EK: Tensor,
    hidden_EH: Tensor,
    w1_HK: Tensor,
    w2_DH: Tensor,
    encoder_rows: Tensor,
    for_states: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """d of states (empty unless asked for), w1, b1, w2, b2."""
    way = _ways(states_EK, w2_DH)[1]
    if way != TORCH:
        from mmscale_kernels.gpu import adapter as gpu

        values = (d_merged_TD.contiguous(), states_EK, hidden_EH, w1_HK, w2_DH)
        return gpu.backward(*values, encoder_rows, for_states, way)
    d_mapped = d_merged_TD.index_select(0, encoder_rows).to(states_EK.dtype)
    d_hidden = (d_mapped @ w2_DH).masked_fill_(hidden_EH <= 0, 0)
    d_states = d_hidden @ w1_HK if for_states else states_EK.new_empty(0)
    return d_states, d_hidden.T @ states_EK, d_hidden.sum(0), d_mapped.T @ hidden_EH, d_mapped.sum(0)


@_adapter_backward.register_fake
def _(
    d_merged_TD: Tensor,
    states_EK: Tensor,
    hidden_EH: Tensor,
    w1_HK: Tensor,
    w2_DH: Tensor,
    encoder_rows: Tensor,
    for_states: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    d_states = torch.empty_like(states_EK) if for_states else states_EK.new_empty(0)
    d_b1, d_b2 = w1_HK.new_empty(w1_HK.shape[0]), w2_DH.new_empty(w2_DH.shape[0])
    return d_states, torch.empty_like(w1_HK), d_b1, torch.empty_like(w2_DH), d_b2


def _setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    states, w1, _, w2, *_, token_rows, encoder_rows, boundary_rows = inputs
    ctx.save_for_backward(states, w1, w2, output[1], token_rows, encoder_rows, boundary_rows)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_merged: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    states, w1, w2, hidden, token_rows, encoder_rows, boundary_rows = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    d_states, *d_weights = (None,) * 5
    if any(wanted[:5]):
        d_states, *d_weights = _adapter_backward(d_merged, states, hidden, w1, w2, encoder_rows, wanted[0])
    return (
        d_states if wanted[0] else None,
        *(gradient if needed else None for gradient, needed in zip(d_weights, wanted[1:5], strict=True)),
        d_merged.index_select(0, boundary_rows).sum(0) if wanted[5] else None,
        d_merged.index_select(0, token_rows) if wanted[6] else None,
        None,
        None,
        None,
    )


_adapter.register_autograd(_backward, setup_context=_setup_context)
