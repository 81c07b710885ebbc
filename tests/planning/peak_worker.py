"""Runs on two ranks of a tensor group: the peak of a real training step beside the planned one; JSON on rank 0."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig

from benchmarks.memory import peak_bytes
from mmscale.cli.devices import joined
from mmscale.config.model import LanguageModelConfig
from mmscale.config.parallel import ParallelConfig
from mmscale.config.training import StageConfig
from mmscale.data.packing import PackedRow
from mmscale.models.assembly import make_trainable
from mmscale.models.language_model import load_language_model
from mmscale.models.merge import MergedModel
from mmscale.models.places import resolve_path
from mmscale.parallel import regions
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import leave
from mmscale.planning.tracing import RowWork, trace
from mmscale.training.engines.local import LocalEngine
from mmscale.training.objective import CausalObjective
from tests.planning.test_memory import SHAPE, TOKENS


def peak(folder: Path, context: ParallelContext, checkpointing: bool) -> int:
    """Bytes beyond parameters, gradients and optimizer state."""
    model = MergedModel(load_language_model(LanguageModelConfig(path=str(folder)), context))
    make_trainable(model.language_model, checkpointing, frozen=False)
    engine = LocalEngine(CausalObjective(model), StageConfig(steps=1), context)
    places = torch.arange(TOKENS)
    row = PackedRow(
        token_ids=places % 2000 + 3, token_rows=places, position_ids=places, labels=places % 2000 + 4, lengths=[TOKENS]
    )
    engine.train_step([row], 1e-4)  # the optimizer's state is made here
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.optimizer.zero_grad = lambda set_to_none=True: None  # type: ignore[method-assign]  # as between rows of a step
    return peak_bytes(lambda: engine.train_step([row], 1e-4))


def keep_gloo_out_of_the_account() -> None:
    """What its threads free, torch's profiler does not see: let them let go of what was reduced while we still hold it,
    and gather and scatter zeros (gloo copies both), which take as much memory as any other numbers."""
    reduce = dist.all_reduce

    def all_reduce(*arguments: Any, **more: Any) -> None:
        reduce(*arguments, **more)
        time.sleep(0.01)

    dist.all_reduce = all_reduce
    regions._all_gather = regions._reduce_scatter = lambda result, _, group: result.zero_()


def main() -> None:
    torch.set_num_threads(1)
    folder, found = Path(sys.argv[1]), []
    config = LlamaConfig(**{**SHAPE, "vocab_size": 2048})  # type: ignore[arg-type]
    with joined(ParallelConfig(tensor_parallel_size=2)) as context:
        if context.is_first:
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            for file in Path(resolve_path("tinyworld:llm")).glob("*token*"):
                (folder / file.name).write_bytes(file.read_bytes())
        context.barrier()
        for sequence in (
            False,
            True,
        ):  # the architecture is compared with transformers' at its first load: with true numbers
            load_language_model(LanguageModelConfig(path=str(folder)), replace(context, sequence_parallel=sequence))
        keep_gloo_out_of_the_account()
        for sequence in (False, True):
            for checkpointing in (False, True):
                found.append(peak(folder, replace(context, sequence_parallel=sequence), checkpointing))
    if context.is_first:
        works = [
            RowWork(
                tokens=TOKENS,
                targets=TOKENS,
                dtype=torch.float32,
                trained=True,
                checkpointing=checkpointing,
                flash=False,
                tensor_size=2,
                sequence_parallel=sequence,
            )
            for sequence in (False, True)
            for checkpointing in (False, True)
        ]
        print(json.dumps([found, [trace(config, work).peak for work in works]]))


if __name__ == "__main__":
    main()
    leave(0)
