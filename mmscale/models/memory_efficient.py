"""RMSNorm and SwiGLU that keep their inputs for the backward pass, and no more; rotations of positions in one kernel.

transformers writes both as a handful of operations, each of which keeps what its own derivative needs: a float32 copy of
every norm's input, and silu(gate) beside gate and up. The forward pass here is bit for bit the same on a CPU; the backward
pass makes again what was not kept, in fewer passes over memory. On a GPU the norm is torch's own fused one, and queries and
keys are rotated by Triton; elsewhere by transformers.

Legend: N rows, D width, F intermediate width.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmscale_kernels import rotate, use_triton
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_NORMS = {"LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm"}
_MLPS = {"LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP"}
_ATTENTIONS = {"LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention"}
"""Classes of transformers whose forward is LLaMA's, word for word, or rotates as LLaMA's does; tests compare each with its own."""
_ROTATION = "apply_rotary_pos_emb"
"""The function of each modeling file that rotates queries and keys."""


def make_memory_efficient(model: nn.Module) -> None:
    """Swap the forward of a model's RMSNorms and SwiGLUs, and what its attention rotates by; parameters, names and hooks
    stay as they are."""
    for module in model.modules():
        name = type(module).__name__
        if name in _NORMS:
            module.__class__ = RmsNorm
        elif name in _MLPS and _is_silu(module.act_fn):
            module.__class__ = SwiGlu
        elif name in _ATTENTIONS:
            module.__class__ = _with_one_rotation(type(module))  # type: ignore[arg-type]


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


@functools.cache
def _with_one_rotation(attention: type[nn.Module]) -> type[nn.Module]:
    """A class of the same name, whose forward is that of transformers, word for word, but finds another function under the
    name of the rotation. Neither the class nor its module is changed, which other models of this process use. The class
    itself where its forward looks for none.
    """
    forward: Any = attention.forward
    if not isinstance(forward, types.FunctionType) or _ROTATION not in forward.__code__.co_names or forward.__closure__:
        return attention
    theirs = forward.__globals__.get(_ROTATION)
    if not callable(theirs) or theirs.__module__ == __name__:  # ours already
        return attention
    names = {**forward.__globals__, _ROTATION: _rotation(theirs)}
    own = types.FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__)
    own.__kwdefaults__, own.__doc__ = forward.__kwdefaults__, forward.__doc__
    return type(attention.__name__, (attention,), {"forward": own, "__module__": attention.__module__})


def _in_one_kernel(device: torch.device) -> bool:
    """On a CPU never, whatever was chosen for kernels: small models are compared and traced there on the way to a GPU."""
    return device.type == "cuda" and use_triton(device)


def _rotation(theirs: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """Rotations by Triton on a GPU, else by transformers' function."""

    def apply(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **options: Any) -> tuple[Tensor, Tensor]:
        if more or options or not _in_one_kernel(q.device):
            return theirs(q, k, cos, sin, *more, **options)
        return rotate(q, k, cos, sin)

    return apply
