"""The merge of MindMerger on packed rows: every row of the LLM's input is written once, at its place.

    merged[token_rows[n]]    = tokens[n]       n < N
    merged[encoder_rows[e]]  = mapped[e]       e < E
    merged[boundary_rows[b]] = boundary        b < B

The three index vectors partition 0..T-1, T = N + E + B. No padding, no concatenation, no sort: the
published code (pad, cat, sort, boolean gather) moves the same rows two to four times.
"""

from __future__ import annotations

import torch
from torch import Tensor


def merge_rows_reference(
    tokens: Tensor, mapped: Tensor, boundary: Tensor, token_rows: Tensor, encoder_rows: Tensor, boundary_rows: Tensor
) -> Tensor:
    """The definition, by concatenation and one scatter; for tests."""
    source = torch.cat([tokens, mapped, boundary.expand(boundary_rows.numel(), -1)])
    places = torch.cat([token_rows, encoder_rows, boundary_rows])
    return torch.empty_like(source).index_copy(0, places, source)


@torch.library.custom_op("mmscale::merge_rows", mutates_args=())
def merge_rows(
    tokens: Tensor, mapped: Tensor, boundary: Tensor, token_rows: Tensor, encoder_rows: Tensor, boundary_rows: Tensor
) -> Tensor:
    """Merged LLM input [T, D].

    tokens [N, D], mapped [E, D], boundary [D], all of one floating dtype; token_rows int64 [N],
    encoder_rows int64 [E], boundary_rows int64 [B]. Raises ValueError on shapes that do not fit.
    """
    _check(tokens, mapped, boundary, token_rows, encoder_rows, boundary_rows)
    merged = tokens.new_empty(token_rows.numel() + encoder_rows.numel() + boundary_rows.numel(), tokens.shape[1])
    merged.index_copy_(0, token_rows, tokens)
    merged.index_copy_(0, encoder_rows, mapped)
    merged[boundary_rows] = boundary
    return merged


def _check(
    tokens: Tensor, mapped: Tensor, boundary: Tensor, token_rows: Tensor, encoder_rows: Tensor, boundary_rows: Tensor
) -> None:
    width = tokens.shape[1]
    if mapped.shape[1] != width or boundary.shape != (width,):
        raise ValueError(f"widths differ: tokens {width}, mapped {mapped.shape[1]}, boundary {tuple(boundary.shape)}")
    if tokens.shape[0] != token_rows.numel() or mapped.shape[0] != encoder_rows.numel():
        raise ValueError("one place is needed for each token row and each mapped row")
    if not tokens.dtype == mapped.dtype == boundary.dtype:
        raise ValueError(f"dtypes differ: tokens {tokens.dtype}, mapped {mapped.dtype}, boundary {boundary.dtype}")


@merge_rows.register_fake
def _(
    tokens: Tensor, mapped: Tensor, boundary: Tensor, token_rows: Tensor, encoder_rows: Tensor, boundary_rows: Tensor
) -> Tensor:
    return tokens.new_empty(token_rows.shape[0] + encoder_rows.shape[0] + boundary_rows.shape[0], tokens.shape[1])


def _setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[3:])


def _backward(ctx, gradient: Tensor):  # type: ignore[no-untyped-def]
    """d tokens and d mapped are gathers; d boundary is the sum over its rows."""
    token_rows, encoder_rows, boundary_rows = ctx.saved_tensors
    wanted = ctx.needs_input_grad
    return (
        gradient[token_rows] if wanted[0] else None,
        gradient[encoder_rows] if wanted[1] else None,
        gradient[boundary_rows].sum(0) if wanted[2] else None,
        None,
        None,
        None,
    )


merge_rows.register_autograd(_backward, setup_context=_setup_context)
