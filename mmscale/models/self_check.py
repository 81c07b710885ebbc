"""An architecture is compared with transformers' own forward pass the first time it is loaded: equal, or refused.

A small random model of the same class and settings runs both ways, whole or cut as the load will be: packed rows, their
loss, its gradients, and tokens that come one at a time. What was found is kept for the next load.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmscale_kernels
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM

from mmscale.errors import UserError
from mmscale.models.accounting import unpartitioned
from mmscale.models.attention import PACKED_SDPA
from mmscale.models.packed_layout import PackedLayout
from mmscale.models.small_config import small_config
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.shards import shard_of
from mmscale.parallel.tensor import TensorParallelState, shard_model
from mmscale.storage.files import digest, user_cache, write_json
from mmscale.storage.reading import read_json_object

if TYPE_CHECKING:
    from mmscale.models.language_model import LanguageModel

_LENGTHS = (7, 1, 12)
_PREFIX = 5
"""Tokens of the longest sequence that are there before the others come one at a time."""
_BOUND = 2e-3
"""Largest difference, relative to the largest value: float32 in another order gives some 1e-5, a forgotten factor per cents."""

_NO_SETTINGS = ("_name_or_path", "dtype", "torch_dtype", "transformers_version")


Wrap = Callable[[Any, TensorParallelState | None], "LanguageModel"]
"""(a model of transformers, how it is cut) -> ours around it."""


def require_known_right(
    model_config: Any, path: str, context: ParallelContext, wrap: Wrap, trust_remote_code: bool
) -> None:
    """UserError, on every rank, where the architecture's numbers here are not those of transformers.

    All ranks of a layout call it, each tensor group cuts its small model as it will the real one.
    """
    kept = _cache_file(model_config, context)
    difference = context.from_first(lambda: _remembered(kept))
    if difference is None:
        problems = context.gather(_problem(model_config, context, wrap, trust_remote_code))
        difference = next((problem for problem in problems if problem), "")
        if (
            context.is_first and not difference
        ):  # what failed once is compared again: it may have been memory, or a cut network
            _remember(kept)
    if difference:
        name = (getattr(model_config, "architectures", None) or [type(model_config).__name__])[0]
        where = f" cut into {context.tensor_size} parts" if context.tensor_size > 1 else ""
        raise UserError(
            f"{path}: {name}{where} is not supported: {difference}; docs/architectures.md lists the models that are"
        )


def _problem(config: Any, context: ParallelContext, wrap: Wrap, trust: bool) -> str:
    """What is wrong; empty where all is equal."""
    problem = ""
    with unpartitioned(), torch.random.fork_rng(devices=[]), torch.enable_grad(), _one_thread():
        for keep_widths in (False, True):
            try:
                small = small_config(config, context.tensor_size, keep_widths)
                reference = _build(small, trust, "eager")
                _randomise(reference)
                ids = [torch.randint(3, int(small.vocab_size), (1, n)) for n in _LENGTHS]
                expected = _expected(reference, ids)
            except Exception as error:  # whatever a family's own rules for its sizes are
                problem = f"it could not be compared with transformers ({_line(error)})"
                continue
            here = replace(context, device=ids[0].device)
            try:
                ours = wrap(*_ours(small, reference, here, trust))
            except Exception as error:
                return _of_making(error)
            return _compared(ours, reference, ids, expected)
    return problem


def _line(error: Exception | None) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:200]


def _build(config: Any, trust: bool, attention: str) -> Any:
    return AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=attention, trust_remote_code=trust
    ).eval()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """More would wait for each other over matrices as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _of_making(error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    said = "" if "scaled_dot_product_attention" in str(error) else f" ({_line(error)})"
    return f"its attention cannot be replaced by one of packed rows{said}"


def _compared(ours: LanguageModel, reference: Any, ids: list[Tensor], expected: dict[str, Tensor]) -> str:
    try:
        ours_by_name = _found(ours, ids)
    except UserError as error:
        return str(error)
    except AssertionError:
        return "it does not hand packed rows on to its attention"
    except Exception as error:
        return f"it does not run on packed rows ({_line(error)})"
    for name, value in ours_by_name.items():
        far = _difference(value, expected[name], 0.0)
        if not far <= _BOUND:
            return f"its {name} here differs by {100 * far:.1f} % from that of transformers"
    return _compared_gradients(ours, dict(reference.named_parameters()))


def _compared_gradients(ours: LanguageModel, reference: dict[str, Any]) -> str:
    """What differs between the gradients of every parameter, or this rank's piece; one that is 0 but for rounding is held against the largest."""
    least = 1e-3 * max(float(p.grad.abs().max()) for p in reference.values() if p.grad is not None)
    for name, parameter in ours.causal_lm.named_parameters():
        right, shard, value = reference[name].grad, shard_of(parameter), parameter.grad
        if right is None or value is None:
            if right is not None and right.any():
                return f"the gradient of its {name} is lost here"
            continue
        far = _difference(value.narrow(shard.dimension, 0, shard.size), shard.of(right), least)
        if not far <= _BOUND:
            return f"the gradient of its {name} here differs by {100 * far:.1f} % from that of transformers"
    return ""


def _difference(ours: Tensor, right: Tensor, least: float) -> float:
    if not right.numel():
        return 0.0
    return float((ours - right).abs().max() / right.abs().max().clamp_min(max(least, 1e-6)))


@torch.no_grad()
def _randomise(model: Any) -> None:
    """Values large enough that mistakes show, the same on every rank; norms and biases too, which begin at 1 and 0."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.3)
        else:
            parameter.add_(0.05 * torch.randn_like(parameter))


def _expected(reference: Any, ids: list[Tensor]) -> dict[str, Tensor]:
    """transformers' own numbers, one sequence at a time."""
    logits = [reference(one).logits[0] for one in ids]
    loss = torch.stack(
        [F.cross_entropy(row[:-1], one[0, 1:], reduction="sum") for row, one in zip(logits, ids, strict=True)]
    ).sum()
    loss.backward()
    return {"loss": loss.detach(), "logits": torch.cat(logits).detach(), "next token": logits[2][_PREFIX:].detach()}


def _ours(small: Any, reference: Any, context: ParallelContext, trust: bool) -> tuple[Any, TensorParallelState | None]:
    """The same weights, whole or cut."""
    weights = reference.state_dict()
    if context.tensor_size == 1:
        model = _build(small, trust, PACKED_SDPA)
        model.load_state_dict(weights)
        return model, None
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        model = _build(small, trust, PACKED_SDPA)
    return model, shard_model(model, context, torch.float32, lambda name, shard: shard.of(weights[name]))


def _found(ours: LanguageModel, ids: list[Tensor]) -> dict[str, Tensor]:
    """The same numbers, all sequences in a packed row, and the end of the longest one token at a time."""
    tokens = torch.cat([one[0] for one in ids])
    positions = torch.cat([torch.arange(n) for n in _LENGTHS])
    hidden = ours.hidden(ours.embed(tokens), positions, PackedLayout(_LENGTHS, tokens.device))
    parts = hidden.split(_LENGTHS)
    read = torch.cat([part[:-1] for part in parts])
    loss = ours.cross_entropy_sum(read, torch.cat([one[0, 1:] for one in ids]))
    loss.backward()
    with torch.no_grad():
        return {"loss": loss.detach(), "logits": ours.logits(hidden), "next token": _one_at_a_time(ours, ids[2][0])}


def _one_at_a_time(ours: LanguageModel, tokens: Tensor) -> Tensor:
    cache = ours.new_cache(1, len(tokens))
    new = cache.admit([_PREFIX])
    ours.hidden(ours.embed(tokens[:_PREFIX]), new.places, PackedLayout((_PREFIX,), tokens.device), cache, new)
    rows = []
    for token in tokens[_PREFIX:]:
        new = cache.grow(1)
        rows.append(ours.logits(ours.hidden(ours.embed(token[None]), new.places, None, cache, new)))
    return torch.cat(rows)


def _cache_file(config: Any, context: ParallelContext) -> Path:
    """By everything that decides what is found: versions, our code, the settings, the cut."""
    code = hashlib.sha256()
    for folder in (
        Path(str(resources.files("mmscale"))) / "models",
        Path(str(resources.files("mmscale"))) / "parallel",
    ):
        for file in sorted(folder.glob("*.py")):
            code.update(file.read_bytes())
    for file in sorted(Path(mmscale_kernels.__file__).parent.glob("*.py")):
        code.update(file.read_bytes())
    values = {key: value for key, value in config.to_dict().items() if key not in _NO_SETTINGS}
    name, cut = type(config).__name__, [context.tensor_size, context.sequence_parallel]
    key = digest([name, transformers.__version__, torch.__version__, code.hexdigest(), values, cut])
    return user_cache() / "architectures" / f"{name}-{key}.json"


def _remembered(file: Path) -> str | None:
    """Empty where it was found to be equal before; None where nothing is known, or cannot be read."""
    try:
        problem = read_json_object(file, "")["problem"] if file.is_file() else None
    except (UserError, KeyError, OSError):
        return None
    return "" if problem == "" else None


def _remember(file: Path) -> None:
    """Where nothing can be kept, the next load compares again."""
    with contextlib.suppress(UserError, OSError):
        write_json(file, {"problem": ""})
