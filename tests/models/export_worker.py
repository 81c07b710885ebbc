"""Runs on both ranks: exports a model through a slow disk, with a time-out that is shorter than all of it takes.

python -m tests.models.export_worker MODEL FOLDER; prints one line of JSON on rank 0.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from mmscale.config.model import LanguageModelConfig
from mmscale.models import export as exporting
from mmscale.models.language_model import load_language_model
from mmscale.parallel.context import ParallelContext, process_groups
from mmscale.parallel.world import discover, leave

TIME_OUT_S, SHARD_S = 10, 1.0


def main() -> None:
    torch.set_num_threads(1)
    save = exporting.save_tensors

    def slow(*arguments: Any, **more: Any) -> None:
        time.sleep(SHARD_S)
        save(*arguments, **more)

    exporting.save_tensors = slow  # type: ignore[assignment]
    model = load_language_model(LanguageModelConfig(path=sys.argv[1]), ParallelContext(device=torch.device("cpu")))
    weights = dict(model.causal_lm.named_parameters())
    folder = Path(sys.argv[2])
    with process_groups(discover(), torch.device("cpu"), TIME_OUT_S / 60) as context:
        context.on_first(folder.mkdir)
        begin = time.monotonic()
        exporting.export(model, lambda name: weights[name].detach(), folder, context, shard_bytes=1)
        seconds = time.monotonic() - begin
    if context.is_first:
        print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
    leave(0)
