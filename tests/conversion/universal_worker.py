"""Runs on every rank: a user's own DeepSpeed training saved by DeepSpeed, made universal by DeepSpeed's script."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

import deepspeed
import torch
from deepspeed.checkpoint.ds_to_universal import main as make_universal
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from mmscale.cli.devices import joined
from mmscale.config.parallel import ParallelConfig, ZeroConfig
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import leave
from mmscale.parallel.zero import start_deepspeed


def train(base: Path, folder: Path, stage: int, context: ParallelContext) -> None:
    start_deepspeed(ZeroConfig(stage=stage), context)
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings, dist_init_required=False)
    ids = torch.arange(4, 12)[None] + context.rank
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    engine.step()
    engine.save_checkpoint(str(folder / f"native{stage}"), tag="step")
    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=stage == 3):
        if context.is_first:
            weights = {name: p.detach().clone() for name, p in model.named_parameters()}
            save_file(weights, folder / f"expected{stage}.safetensors")
    context.barrier()
    if context.is_first:
        make_universal(
            Namespace(
                input_folder=str(folder / f"native{stage}" / "step"),
                output_folder=str(folder / f"zero{stage}_universal"),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
    context.barrier()


if __name__ == "__main__":
    start, output = Path(sys.argv[1]), Path(sys.argv[2])
    with joined(ParallelConfig(zero=ZeroConfig(stage=3))) as here:
        for chosen in (1, 3):
            train(start, output, chosen, here)
    leave(0)
