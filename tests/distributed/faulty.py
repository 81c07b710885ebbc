"""launch/train.py with a fault: `faulty.py save` takes ten seconds to hash a checkpoint, `faulty.py hang` stops in a step."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from mmscale.cli.main import main
from mmscale.training import checkpoint
from mmscale.training.engines.local import LocalEngine

HANGS_AT = 3


def slow_hash(path: Path) -> str:
    time.sleep(10)
    return sha256(path)


def hanging_step(engine: LocalEngine, *arguments: object) -> object:
    global steps
    steps += 1
    if steps == HANGS_AT and engine.context.rank == 1:
        time.sleep(3600)
    return train_step(engine, *arguments)  # type: ignore[arg-type]


if __name__ == "__main__":
    fault, steps = sys.argv[1], 0
    sha256, train_step = checkpoint.sha256, LocalEngine.train_step
    if fault == "save":
        checkpoint.sha256 = slow_hash  # type: ignore[attr-defined]
    else:
        LocalEngine.train_step = hanging_step  # type: ignore[assignment,method-assign]
    sys.exit(main(["train", *sys.argv[2:]]))
