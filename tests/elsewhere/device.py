"""A device that is not the CPU, where there is none: tensors that say they are elsewhere, computed on the CPU.

It refuses what a GPU refuses (operands on two devices), and counts what lets a GPU's queue run empty: numbers that are
read back, results whose shape depends on numbers, and copies to it from memory that is not page-locked.
"""

from __future__ import annotations

import contextlib
import functools
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_setup_privateuseone_for_python_backend("elsewhere")
torch.elsewhere.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]  # type: ignore[attr-defined]  # torch.autocast asks for it
ELSEWHERE = torch.device("elsewhere:0")
_aten = torch.ops.aten
_COPIES = {_aten.copy_.default: (1, 0), _aten._copy_from.default: (0, 1)}
"""Copies between devices: places of source and destination in their arguments."""
_SHAPED_BY_NUMBERS = {
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.repeat_interleave.Tensor,
}
_INDEXING = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_waits: Counter[str] = Counter()


class _There(Tensor):
    """Claims to be elsewhere; `held` is its memory."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> _There:
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made: _There = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device=ELSEWHERE, **layout)
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        """Torch refuses it of every subclass."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """For tensors that are made there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


def _is_there(value: Any) -> bool:
    return isinstance(value, _There)


def _mapped(change: Callable[[Tensor], Any], value: Any) -> Any:
    """An operation's arguments or results with each tensor changed; torch's own pytrees take ten times as long."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(change, one) for key, one in value.items()}
    return type(value)([_mapped(change, one) for one in value]) if isinstance(value, list | tuple) else value


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(found.append, value)
    return found


_decomposes = functools.cache(lambda func: func._can_decompose())


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What an operation gives, with memory on the CPU."""
    if _decomposes(func):  # inference mode leaves that to us
        with _Mode():
            return func.decompose(*args, **kwargs)
    tensors = _tensors((args, kwargs))
    there = [x for x in tensors if _is_there(x)]
    here = [x for x in tensors if not _is_there(x) and x.dim() > 0]
    if there and here and func not in _COPIES:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {ELSEWHERE} and cpu")
    wanted = kwargs.get("device")
    result_there = bool(there) if wanted is None else torch.device(wanted).type == ELSEWHERE.type
    if _has_to_wait(func, args, kwargs, there, result_there):
        _waits[_place()] += 1
    args_here, kwargs_here = _mapped(lambda x: x.held if _is_there(x) else x, (args, kwargs))  # type: ignore[attr-defined]
    if wanted is not None:
        kwargs_here["device"] = torch.device("cpu")
    out = func(*args_here, **kwargs_here)
    return _moved(out, there) if result_there else out


def _moved(out: Any, there: list[_There]) -> Any:
    """Results as tensors that are there; what was written in place is the same tensor as before."""
    given = {id(x.held): x for x in there}
    # a view of an ordinary tensor is an ordinary one, in inference mode too
    with torch.inference_mode(torch.is_inference_mode_enabled() and all(x.is_inference() for x in there)):
        return _mapped(lambda x: given[id(x)] if id(x) in given else _There(x), out)


def _has_to_wait(func: Any, args: Any, kwargs: dict[str, Any], there: list[_There], result_there: bool) -> bool:
    if func in _COPIES or func is _aten._to_copy.default:
        places = _COPIES.get(func, (0, None))
        source = args[places[0]]
        destination_there = result_there if places[1] is None else _is_there(args[places[1]])
        if destination_there and not _is_there(source):
            return source.dim() > 0 and not (kwargs.get("non_blocking") and getattr(source, "is_locked", False))
        return _is_there(source) and not destination_there
    if not there:
        return False
    if func in _INDEXING:
        return any(x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1]))
    shaped = func in _SHAPED_BY_NUMBERS and kwargs.get("output_size") is None
    return shaped or func is _aten._local_scalar_dense.default or not result_there


def _place() -> str:
    """The function of the package that an operation comes from."""
    for frame in reversed(traceback.extract_stack()):
        path = Path(frame.filename)
        if {"mmscale", "mmscale_kernels"} & set(path.parts):
            return f"{path.name} {frame.name}"
    return "outside"


def _below_python(operation: Any) -> Any:
    """For the few that torch calls below its Python dispatch, when a number is written into a tensor."""
    return lambda *args, **kwargs: _computed(operation, args, {**kwargs, "device": ELSEWHERE})


def _copied(source: Tensor, destination: Tensor, non_blocking: bool = False) -> Tensor:
    _computed(_aten.copy_.default, (destination, source), {"non_blocking": non_blocking})
    return destination


_library = torch.library.Library("aten", "IMPL")
_library.impl("empty.memory_format", _below_python(_aten.empty.memory_format), "PrivateUse1")
_library.impl("empty_strided", _below_python(_aten.empty_strided.default), "PrivateUse1")
_library.impl("_copy_from", _copied, "PrivateUse1")


def _locked(tensor: Tensor) -> Tensor:
    """In memory that the device could read by itself."""
    made = tensor.clone()
    made.is_locked = True  # type: ignore[attr-defined]
    return made


class _Event:
    """A mark in the device's queue, which is never behind."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.time: float | None = None

    def record(self) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        assert self.time is not None, "it was never recorded"

    def elapsed_time(self, later: _Event) -> float:
        """Milliseconds."""
        assert self.time is not None and later.time is not None
        return 1000 * (later.time - self.time)


torch.elsewhere.Event = _Event  # type: ignore[attr-defined]
torch.__future__.set_swap_module_params_on_conversion(True)  # else module.to would untie weights, as it does on no GPU


@contextlib.contextmanager
def elsewhere() -> Iterator[Counter[str]]:
    """Within it torch knows ELSEWHERE; how often each function of the package let its queue run empty."""
    _waits.clear()
    with _Mode(), mock.patch.object(Tensor, "pin_memory", _locked):
        yield _waits
