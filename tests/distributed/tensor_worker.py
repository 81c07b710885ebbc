"""Runs on every rank: each architecture cut over the ranks against the whole model, from the same files.

torchrun --nproc-per-node N tensor_worker.py FOLDER (one model folder each); prints one line of JSON on rank 0.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmscale.cli.devices import joined
from mmscale.config.model import LanguageModelConfig
from mmscale.config.parallel import ParallelConfig
from mmscale.errors import UserError
from mmscale.models.assembly import make_trainable
from mmscale.models.language_model import LanguageModel, load_language_model
from mmscale.models.layer_fusion import EncoderMemory, require_fusable
from mmscale.models.packed_layout import PackedLayout
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.shards import shard_of
from mmscale.parallel.world import leave

LENGTHS = (5, 1, 9)


def run(model: LanguageModel) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, d inputs, logits) of a packed row of three sequences, every other position with a target."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = int(model.config.vocab_size)
    ids = torch.randint(vocabulary, (sum(LENGTHS),), generator=generator)
    targets = torch.randint(vocabulary, (sum(LENGTHS),), generator=generator)[::2]
    targets[0] = vocabulary - 1  # the last real entry, where a cut vocabulary may be padded
    inputs = model.embed(ids)
    inputs.retain_grad()
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    read = torch.arange(0, sum(LENGTHS), 2)
    hidden = model.hidden(inputs, positions, PackedLayout(LENGTHS, inputs.device), read=read)
    loss = model.cross_entropy_sum(hidden, targets)
    loss.backward()
    assert inputs.grad is not None
    with torch.no_grad():
        return loss.detach(), inputs.grad, model.logits(hidden)


def read_beside(model: LanguageModel) -> dict[str, Tensor]:
    """What a pass in which every layer reads encoder states (LayAlign) gives: loss, gradients of these and of the gates, and the
    logits of a token after each sequence, whose keys and values are kept."""
    generator = torch.Generator().manual_seed(1)
    texts, ids = PackedLayout((4, 7, 2), model.device), torch.randint(4, 200, (sum(LENGTHS) + 3,), generator=generator)
    states = torch.randn(2 * model.depth, 13, model.width, generator=generator).requires_grad_()
    gates = torch.randn(model.depth, generator=generator).requires_grad_()
    memory = EncoderMemory(states, gates, range(model.depth), texts)
    inputs, layout = model.embed(ids[:-3]), PackedLayout(LENGTHS, model.device)
    hidden = model.hidden(inputs, layout.places, layout, read=torch.arange(0, 15, 2), memory=memory)
    loss = model.cross_entropy_sum(hidden, ids[:8])
    loss.backward()
    assert states.grad is not None and gates.grad is not None
    with torch.no_grad():
        cache = model.new_cache(3, 12)
        new = cache.admit(LENGTHS)
        model.hidden(inputs, new.places, layout, cache, new, memory=memory)
        new = cache.grow(1)
        after = model.logits(model.hidden(model.embed(ids[-3:]), new.places, None, cache, new))
    return {"loss": loss.detach(), "states": states.grad, "gates": gates.grad, "next": after}


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest, relative to the expected tensor's largest entry."""
    if not expected.numel():
        return 0.0
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def compare(path: Path, context: ParallelContext, checkpointing: bool) -> dict[str, float]:
    config = LanguageModelConfig(path=str(path), dtype="float32")
    whole, part = (
        load_language_model(config, ParallelContext(device=context.device)),
        load_language_model(config, context),
    )
    for model in (whole, part):
        make_trainable(model, checkpointing, frozen=False)
    results = [run(model) for model in (whole, part)]
    found = dict(zip(("loss", "inputs", "logits"), map(difference, results[1], results[0]), strict=True))
    expected = dict(whole.named_parameters())
    found["gradients"] = 0.0
    held = 0
    for name, parameter in part.named_parameters():
        shard = shard_of(parameter)
        assert parameter.grad is not None, name
        real = parameter.grad.narrow(shard.dimension, 0, shard.size)
        gradient = expected[name].grad
        assert gradient is not None
        found["gradients"] = max(found["gradients"], difference(real, shard.of(gradient)))
        padding = parameter.grad.numel() - real.numel()
        assert padding == 0 or not parameter.grad[shard.size :].any(), f"{name}: padding moves"
        assert torch.equal(parameter.narrow(shard.dimension, 0, shard.size), shard.of(expected[name])), name
        held += shard.elements
    found["held"] = held / sum(parameter.numel() for parameter in expected.values())
    with contextlib.suppress(UserError):
        require_fusable(whole.causal_lm)
        alone, cut = (read_beside(model) for model in (whole, part))
        found |= {f"read beside: {name}": difference(cut[name], value) for name, value in alone.items()}
    return found


def main() -> None:
    torch.set_num_threads(1)
    folders = sorted(Path(sys.argv[1]).iterdir())
    with joined(ParallelConfig(tensor_parallel_size=2)) as context:
        sequence = replace(context, sequence_parallel=True)
        worst = {}
        for kind, how in (("", context), (" sequence-parallel", sequence)):
            for folder in folders:
                checkpointing = folder.name.endswith("checkpointing")
                worst[folder.name + kind] = compare(folder, how, checkpointing)
        gathered = context.gather(worst)
    if context.is_first:
        print(json.dumps(gathered))


if __name__ == "__main__":
    main()
    leave(0)
