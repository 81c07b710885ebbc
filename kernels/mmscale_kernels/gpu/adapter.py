"""GPU implementation of mmscale_kernels.adapter: two products, the second one written to its places in the LLM's row."""

from __future__ import annotations

import torch
from torch import Tensor

from mmscale_kernels.gpu.matmul import DTYPES, GATHER_K, GATHER_M, matmul
from mmscale_kernels.gpu.rows import cut_and_sum, gather_and_sum, scatter


def require(states_EK: Tensor) -> None:
    if states_EK.dtype not in DTYPES:
        raise ValueError(
            f"the Triton adapter takes float16, bfloat16 or float32, not {states_EK.dtype}: use MMSCALE_KERNELS=torch"
        )


def forward(
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
    products: str,
) -> tuple[Tensor, Tensor]:
    """(merged [T, D] in the tokens' dtype, hidden [E, H]); `products` are those of mmscale_kernels.adapter_choice."""
    require(states_EK)
    count = token_rows.numel() + encoder_rows.numel() + boundary_rows.numel()
    merged = tokens_ND.new_empty(count, tokens_ND.shape[1])
    if products == "library":
        hidden = torch._addmm_activation(b1_H, states_EK, w1_HK.T)  # ReLU, in cuBLASLt's epilogue
        scatter(torch.addmm(b2_D, hidden, w2_DH.T), encoder_rows, merged)
    else:
        hidden = states_EK.new_empty(states_EK.shape[0], w1_HK.shape[0])
        matmul(states_EK, w1_HK.T, hidden, bias_N=b1_H, relu=True)
        matmul(hidden, w2_DH.T, merged, bias_N=b2_D, scatter=encoder_rows)
    scatter(tokens_ND, token_rows, merged)
    scatter(boundary_D.expand(boundary_rows.numel(), -1), boundary_rows, merged)
    return merged, hidden


def backward(
    d_merged_TD: Tensor,
    states_EK: Tensor,
    hidden_EH: Tensor,
    w1_HK: Tensor,
    w2_DH: Tensor,
    encoder_rows: Tensor,
    for_states: bool,
    products: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """d of states (empty unless asked for), w1, b1, w2, b2; what is contiguous is needed."""
    require(states_EK)
    if products == "library":
        d_mapped = states_EK.new_empty(encoder_rows.numel(), w2_DH.shape[0])
        d_b2 = gather_and_sum(d_merged_TD, encoder_rows, d_mapped)
        d_hidden = d_mapped @ w2_DH
        d_b1 = cut_and_sum(d_hidden, hidden_EH)
        d_states = d_hidden @ w1_HK if for_states else states_EK.new_empty(0)
        d_w1, d_w2 = d_hidden.T @ states_EK, d_mapped.T @ hidden_EH
        return d_states, d_w1, d_b1.to(w1_HK.dtype), d_w2, d_b2.to(w2_DH.dtype)
    d_merged = d_merged_TD.to(states_EK.dtype)
    d_hidden = torch.empty_like(hidden_EH)
    matmul(d_merged, w2_DH, d_hidden, kept_MN=hidden_EH, gather=(GATHER_M, encoder_rows))
    d_w2, d_b2 = torch.zeros_like(w2_DH), w2_DH.new_zeros(w2_DH.shape[0], dtype=torch.float32)
    matmul(d_merged.T, hidden_EH, d_w2, gather=(GATHER_K, encoder_rows), sums_M=d_b2)
    d_w1, d_b1 = torch.zeros_like(w1_HK), w1_HK.new_zeros(w1_HK.shape[0], dtype=torch.float32)
    matmul(d_hidden.T, states_EK, d_w1, sums_M=d_b1)
    d_states = torch.empty_like(states_EK) if for_states else states_EK.new_empty(0)
    if for_states:
        matmul(d_hidden, w1_HK, d_states)
    return d_states, d_w1, d_b1.to(w1_HK.dtype), d_w2, d_b2.to(w2_DH.dtype)
