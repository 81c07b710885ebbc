"""RMSNorm and SwiGLU that keep their inputs for the backward pass, and no more.

transformers writes both as a handful of operations, each of which keeps what its own derivative needs: a float32 copy of
every norm's input, and silu(gate) beside gate and up. The forward pass here is bit for bit the same on a CPU; the backward
pass makes again what was not kept, in fewer passes over memory. On a GPU the norm is torch's own fused one.

Legend: N rows, D width, F intermediate width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}
"""Classes of transformers whose forward is LLaMA's, word for word; tests compare each with its own."""


def make_memory_efficient(model: nn.Module) -> None:
    """Swap the forward of a model's RMSNorms and SwiGLUs; parameters, names and hooks stay as they are."""
    for module in model.modules():
        name = type(module).__name__
        if name in _NORMS:
            module.__class__ = RmsNorm
        elif name in _MLPS and _is_silu(module.act_fn):
            module.__class__ = SwiGlu


def _is_silu(activation: Any) -> bool:
    return isinstance(activation, nn.SiLU) or type(activation).__name__ == "SiLUActivation"


class RmsNorm(nn.Module):
    """w * x / sqrt(mean(x^2) + eps) of rows [..., D] (Zhang & Sennrich 2019, arXiv 1910.07467, eq. 4), in float32."""

    weight: nn.Parameter
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        if hidden_states.device.type == "cuda" and hidden_states.dtype == self.weight.dtype:
            with torch.autocast(
                "cuda", enabled=False
            ):  # which from torch 2.13 on makes float32 copies of both, and its output
                return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)
        if not torch.is_grad_enabled():
            return _normed(hidden_states, self.weight, self.variance_epsilon)[0]
        normed: Tensor = _RmsNorm.apply(hidden_states, self.weight, self.variance_epsilon)
        return normed


def _normed(rows: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """(w * normalised rows [..., D], float32 1 / root mean square [..., 1])."""
    wide = rows.to(torch.float32)
    scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * scale).to(rows.dtype), scale


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out, scale = _normed(rows, weight, epsilon)
        ctx.save_for_backward(rows, weight, scale)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """With y = x r and g the gradient of w y: dw = sum of g y; dx = r (w g - y mean(w g y))."""
        rows, weight, scale = ctx.saved_tensors
        dtype = torch.promote_types(rows.dtype, torch.float32)
        wide, scale = rows.to(dtype), scale.to(dtype)
        d_rows = d_weight = None
        if ctx.needs_input_grad[1]:
            each = gradient.to(dtype) * (wide * scale)
            d_weight = each.flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            scaled = gradient.to(dtype) * weight.to(dtype)
            shared = (scaled * wide).sum(-1, keepdim=True).mul_(scale.square()).div_(rows.shape[-1])
            d_rows = scaled.addcmul_(wide, shared, value=-1).mul_(scale).to(rows.dtype)
        return d_rows, d_weight, None


class SwiGlu(nn.Module):
    """W_down (silu(W_gate x) * W_up x) of rows [..., D] (Shazeer 2020, arXiv 2002.05202, eq. 6)."""

    gate_proj: nn.Module
    up_proj: nn.Module
    down_proj: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        output: Tensor = self.down_proj(_Gated.apply(gate, up) if torch.is_grad_enabled() else F.silu(gate).mul_(up))
        return output


class _Gated(torch.autograd.Function):
    """silu(gate) * up of [..., F] each."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        gate, up = ctx.saved_tensors
        d_gate = torch.ops.aten.silu_backward(gradient * up, gate) if ctx.needs_input_grad[0] else None
        d_up = F.silu(gate).mul_(gradient) if ctx.needs_input_grad[1] else None
        return d_gate, d_up
