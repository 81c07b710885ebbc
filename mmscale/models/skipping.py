"""The last layer's MLP and output projection on the rows that are read: nobody sees what they would make of others.

Training reads the rows before a target token, prefill the last row of each prompt. Attention still needs the keys and
values of every row; what follows it works on each row alone. Unread rows leave the layer as some other number.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmscale.models.packed_layout import PutRows, TakeRows

_ALONE = ("self_attn.o_proj", "mlp")
"""Parts of a layer that work on each row alone, by transformers' names in LLaMA, Mistral, Qwen and their kin."""


def skip_unread_positions(trunk: Any) -> None:
    """Let the last layer of a trunk take the argument `mmscale_read_rows` (int64 [N], none twice), once however often called.

    A trunk whose layers go by another name computes all rows.
    """
    layers = getattr(trunk, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return
    layer = layers[-1]
    if not any(isinstance(getattr(hook, "__self__", None), _ReadRows) for hook in layer._forward_pre_hooks.values()):
        _ReadRows(layer)


class _ReadRows:
    """Hooks of one layer, which its parameters and their names know nothing of; N rows of T are read."""

    def __init__(self, layer: nn.Module) -> None:
        self.rows: Tensor | None = None
        self.total = 0
        layer.register_forward_pre_hook(self._begin, with_kwargs=True)  # also where its activations are made again
        parts = dict(layer.named_modules())
        for part in (parts[name] for name in _ALONE if name in parts):
            part.register_forward_pre_hook(self._take, prepend=True)  # before a tensor group exchanges them
            part.register_forward_hook(self._put)

    def _begin(self, layer: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.rows = kwargs.get("mmscale_read_rows")

    def _take(self, part: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if self.rows is None:
            return None
        self.total = args[0].shape[1]
        return (TakeRows.apply(args[0][0], self.rows)[None],)

    def _put(self, part: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        return None if self.rows is None else PutRows.apply(output[0], self.rows, self.total)[None]
