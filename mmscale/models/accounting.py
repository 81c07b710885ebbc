"""Every tensor of a model is found in its checkpoint, and every tensor of the checkpoint is used, or nothing is loaded.

transformers' own rules for names (prefixes, renamed and joined tensors) are asked by loading the checkpoint's outline,
tensors on the meta device, into an empty model: the same answer for a plain load, a quantised, cut or partitioned one.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmscale.errors import UserError
from mmscale.models.loading import AGAIN
from mmscale.models.tensor_files import TensorFiles
from mmscale.parallel.context import ParallelContext
from mmscale.progress import say

_BUFFERS = re.compile(
    r"(rotary_emb\.inv_freq|\.masked_bias|(attn|attention)\.bias|position_ids|embed_positions\.weights)$"
)
"""What old checkpoints hold beside their parameters: models compute it."""


_TIMES_LARGER, _MORE_PARAMETERS, _MORE_ELEMENTS = 16, 1024, 1 << 24
"""From how far beyond its checkpoint on a model is not even built; below, every tensor is compared."""
_BUFFER_ELEMENTS = 1 << 30
"""Largest table that a model may compute: positions and masks are no tensors of the checkpoint."""


def without_memory(build: Callable[[], Any], origin: str) -> Any:
    """The model that config.json describes, on the meta device; UserError where it describes none."""
    with _described(origin), torch.device("meta"):
        return build()


@contextlib.contextmanager
def _described(origin: str) -> Iterator[None]:
    """UserError where what config.json says can't be made into a model."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a size that is no size fails anywhere in the model's own code
        said = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"{origin}: config.json describes no model that can be built ({type(error).__name__}: {said}): {AGAIN}"
        ) from error


def outlined(build: Callable[[], Any], files: TensorFiles, origin: str) -> Any:
    """The same, next to its checkpoint: UserError, before time or memory are spent, for one that is far larger."""
    outline = files.without_values()
    with unpartitioned(), _no_larger_than(outline, origin):
        return without_memory(build, origin)


@contextlib.contextmanager
def _no_larger_than(outline: dict[str, Tensor], origin: str) -> Iterator[None]:
    """UserError as soon as a model that is being built has far more parameters than a checkpoint has tensors."""
    from torch.nn.modules import module as registering

    held = sum(value.numel() for value in outline.values())
    parameters, elements, buffers = 0, 0, 0

    def refuse() -> None:
        raise UserError(
            f"{origin}: config.json describes a far larger model than the checkpoint holds ({len(outline)} tensors of "
            f"{held} numbers): use the configuration that belongs to these weights"
        )

    def parameter(_: nn.Module, __: str, value: Tensor | None) -> None:
        nonlocal parameters, elements
        parameters, elements = parameters + 1, elements + (0 if value is None else value.numel())
        if (
            parameters > _TIMES_LARGER * len(outline) + _MORE_PARAMETERS
            or elements > _TIMES_LARGER * held + _MORE_ELEMENTS
        ):
            refuse()

    def buffer(_: nn.Module, __: str, value: Tensor | None) -> None:
        nonlocal buffers
        buffers += 0 if value is None else value.numel()
        if buffers > _TIMES_LARGER * held + _BUFFER_ELEMENTS:
            refuse()

    hooks = (
        registering.register_module_parameter_registration_hook(parameter),
        registering.register_module_buffer_registration_hook(buffer),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def require_whole(
    empty: Any, files: TensorFiles, origin: str, beside: re.Pattern[str] | None = None, **arguments: Any
) -> None:
    """UserError naming the first tensor that is missing, left over, or of another shape than the configuration says.

    `empty` is the model `outlined`; `beside` are tensors of halves that are not loaded; `arguments` are those of
    from_pretrained.
    """
    outline = files.without_values()
    _refuse_integers(outline, origin)
    with unpartitioned(), _silent(), _described(origin):
        model, report = type(empty).from_pretrained(
            None,
            config=empty.config,
            state_dict=outline,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **arguments,
        )
    _refuse(report, origin, beside)
    _require_equal_ties(getattr(model, "all_tied_weights_keys", None) or {}, files, origin)


def _refuse_integers(outline: dict[str, Tensor], origin: str) -> None:
    """UserError for a parameter in integers or 8 bits: quantised, whatever config.json says, and read as plain numbers wrong."""
    for name, value in sorted(outline.items()):
        if (not value.is_floating_point() or value.element_size() < 2) and not _BUFFERS.search(name):
            raise UserError(
                f"{origin}: tensor {name} holds {str(value.dtype).removeprefix('torch.')}, as quantised checkpoints do, which "
                f"are not supported: take the model it was made from"
            )


def _refuse(report: dict[str, Any], origin: str, beside: re.Pattern[str] | None) -> None:
    for name in sorted(report["missing_keys"]):
        raise UserError(
            f"{origin} lacks the tensor {name} ({len(report['missing_keys'])} are missing): it is no whole checkpoint of this "
            f"architecture, or config.json is of another size: {AGAIN}"
        )
    for name, there, wanted in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{origin}: tensor {name} has shape {list(there)}, config.json says {list(wanted)}: use the configuration that "
            f"belongs to these weights"
        )
    left = [
        n for n in sorted(report["unexpected_keys"]) if not _BUFFERS.search(n) and not (beside and beside.search(n))
    ]
    for name in left:
        raise UserError(
            f"{origin} holds the tensor {name} that its architecture has no place for ({len(left)} are left over): "
            f"config.json is of another model or size, or the names are a wrapper's: {AGAIN}, or convert it"
        )


def _require_equal_ties(tied: dict[str, str], files: TensorFiles, origin: str) -> None:
    """UserError where config.json calls two tensors one, and the checkpoint holds two different ones."""
    for one, other in tied.items():
        if one in files and other in files and not torch.equal(files.read(one), files.read(other)):
            raise UserError(
                f"{origin}: {one} and {other} differ, though config.json ties them: set tie_word_embeddings to what the "
                f"model was trained with"
            )


def require_finite(model: nn.Module, files: TensorFiles, origin: str, context: ParallelContext) -> None:
    """UserError, on all ranks of a layout, where any of them holds a parameter with NaN or infinity. Matrices of nothing but
    zeros, which a download leaves that took its room beforehand, are told of.

    Of a model that lies on NVMe already, ranks look at the checkpoint's own tensors instead, each at its share.
    """
    parameters = dict(model.named_parameters())
    away = any(_is_away(p) for p in parameters.values())
    names = list(files)[context.rank :: context.size] if away else list(parameters)
    unreal, nonzero, matrices = [], [], []
    for name in names:
        held = files.read(name) if away else _held(parameters[name], context)
        shape = held.shape if away else getattr(parameters[name], "ds_shape", held.shape)
        finite, any_value = _values(held)
        unreal += [] if finite else [name]
        nonzero.append(float(any_value))
        matrices.append(len(shape) > 1 and shape[0] > 1)  # XLM-R's only type of token is a row of zeros
    context.agree(
        f"{origin}: tensor {unreal[0]} holds NaN or infinity: it is damaged, or its training failed" if unreal else None
    )
    if not away:
        nonzero = context.maximum(nonzero)  # a rank's piece may be padding alone
    zeros = [name for name, some, matrix in zip(names, nonzero, matrices, strict=True) if matrix and not some]
    if zeros and context.is_first:
        say(
            f"warning: {origin}: {zeros[0]} holds nothing but zeros ({len(zeros)} of {len(names)} tensors): if it was not made "
            f"so, it is half a download"
        )


def _is_away(parameter: Any) -> bool:
    """Whether DeepSpeed has moved what this rank owns of a parameter out of memory, and left nothing or one number there."""
    part: Any = getattr(parameter, "ds_tensor", None)
    return part is not None and part.numel() < part.ds_numel


def _held(parameter: Any, context: ParallelContext) -> Tensor:
    """What this rank has of a parameter; under ZeRO-3 without the padding of the last ranks, which nobody ever writes."""
    if not hasattr(parameter, "ds_tensor"):
        return parameter
    part: Any = parameter.ds_tensor
    begin = part.ds_numel * context.data_rank
    return part.flatten()[: max(0, parameter.ds_numel - begin)]


@torch.no_grad()
def _values(held: Tensor) -> tuple[bool, bool]:
    """Whether all numbers of a tensor are finite, and whether any is not zero; of what is no plain float, both."""
    if not held.is_floating_point() or held.element_size() < 2 or held.is_meta:
        return True, True
    total = held.sum()  # tells in one pass but where it overflows or cancels
    return bool(total.isfinite()) or bool(held.isfinite().all()), bool(total != 0) or bool(held.any())


@contextlib.contextmanager
def unpartitioned() -> Iterator[None]:
    """Outside of DeepSpeed's stage 3, whatever transformers is told to do with what it builds."""
    from transformers.integrations import deepspeed

    held = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = held


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without transformers' table of what it missed: we say it."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False
