"""Runs on both ranks: what loading damaged folders says under tensor parallelism and under ZeRO-3.

torchrun -m tests.models.accounting_worker FOLDER (NUMBER/model in it); prints one line of JSON on rank 0.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

from mmscale.cli.devices import joined
from mmscale.config.data import PackingConfig
from mmscale.config.model import LanguageModelConfig
from mmscale.config.parallel import ParallelConfig, ZeroConfig
from mmscale.config.training import OptimizerConfig, StageConfig
from mmscale.errors import UserError
from mmscale.models.language_model import load_language_model
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import free_port, leave
from mmscale.parallel.zero import partitioned_loading

STAGE = StageConfig(
    steps=1, packing=PackingConfig(row_tokens=64, global_batch_size=2), optimizer=OptimizerConfig(learning_rate=1e-3)
)


def said(folder: Path, context: ParallelContext, zero: ZeroConfig) -> str:
    try:
        with partitioned_loading(zero, STAGE, context):
            load_language_model(LanguageModelConfig(path=str(folder)), context)
    except UserError as error:
        return str(error)
    return ""


def main() -> None:
    torch.set_num_threads(1)
    folders = sorted(Path(sys.argv[1]).glob("*/model"))
    found = {}
    for kind, size, stage in (("tensor", 2, 0), ("zero", 1, 3)):
        zero = ZeroConfig(stage=stage)
        with joined(ParallelConfig(tensor_parallel_size=size, zero=zero)) as context:
            found[kind] = [said(folder, context, zero) for folder in folders]
            gathered = context.gather(found)
            port = context.from_first(free_port)
        # a rank that is ahead would meet the others of the next world at this one's port, which then closes
        os.environ["MASTER_PORT"] = str(port)
    if context.is_first:
        print(json.dumps(gathered))


if __name__ == "__main__":
    main()
    leave(0)
