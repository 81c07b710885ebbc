"""A stand-in for CUDA graphs: the operations of a step, repeated on the same memory with the same numbers baked in."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_aten = torch.ops.aten
_READING_BACK = {_aten._local_scalar_dense.default, _aten.item.default, _aten.is_nonzero.default, _aten.equal.default}


class _Listening(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in _READING_BACK:
            raise RuntimeError("a number was read back\nwhich no graph can do")
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]))
        return out


def _storages(values: Any) -> set[int]:
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)}


def _is_view(func: Any, args: Any, kwargs: Any, outs: list[Tensor]) -> bool:
    """Its result lies in an argument's memory and nothing is written: the same in every repetition."""
    writes = any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments)
    return not writes and _storages(outs) <= _storages([args, kwargs])


class _Outside:
    """A tensor that a step did not make: a graph knows its address, and does not keep it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = weakref.ref(tensor)

    def __call__(self) -> Tensor:
        tensor = self._tensor()
        assert tensor is not None, "memory that a recording reads was given back"
        return tensor


def _let_go(calls: list[Any]) -> list[Any]:
    """Calls that keep alive what they made themselves alone."""
    made = {id(tensor) for *_, outs in calls for tensor in outs}

    def outside(leaf: Any) -> Any:
        return _Outside(leaf) if isinstance(leaf, Tensor) and id(leaf) not in made else leaf

    return [(func, tree_map(outside, args), tree_map(outside, kwargs), outs) for func, args, kwargs, outs in calls]


def _there(values: Any) -> Any:
    return tree_map(lambda leaf: leaf() if isinstance(leaf, _Outside) else leaf, values)


class Tape:
    """Recorder whose recordings run on a CPU."""

    def __init__(self) -> None:
        self.recordings = self.replays = 0

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recordings += 1
        step()  # as on a GPU, to warm up
        with _Listening() as listening:
            out = step()
        made = listening.calls
        calls = [call for call, kept in zip(_let_go(made), made, strict=True) if not _is_view(*kept)]
        made = [outs for *_, outs in made]

        def replay() -> Tensor:
            self.replays += 1
            assert made  # views among them
            for func, args, kwargs, outs in calls:
                again = [
                    leaf for leaf in tree_leaves(func(*_there(args), **_there(kwargs))) if isinstance(leaf, Tensor)
                ]
                for old, new in zip(outs, again, strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)
            return out

        return replay
