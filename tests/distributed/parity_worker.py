"""Runs on every rank: trains both methods' stages with tiny models, and leaves what the test compares.

torchrun --nproc-per-node N parity_worker.py FOLDER key=value …
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from mmscale.cli.devices import joined, started
from mmscale.config.documents import apply_overrides
from mmscale.config.run import RunConfig, parse_run
from mmscale.methods import recipe
from mmscale.parallel.world import leave
from mmscale.runs.run import stages_up_to, train_method
from mmscale.runs.stage_data import prepare
from mmscale.training.engines import zero
from mmscale.training.trainer import Trainer

STEPS = 20
EXAMPLES = 57
"""Not a multiple of the batch: the last step of each epoch is short, and with 4 ranks one has no example at all."""


def configuration(folder: Path, overrides: list[str]) -> RunConfig:
    def stage(form: str, prompt: str, rate: float) -> dict[str, object]:
        data = {"source": "tinyworld", "languages": ["sw"], "limit_per_language": EXAMPLES, "options": {"form": form}}
        return {
            "data": [data],
            "dev_examples": 6,
            "prompt": prompt,
            "packing": {"row_tokens": 160, "global_batch_size": 12},
            "optimizer": {
                "learning_rate": rate,
                "embedding_learning_rate": 2 * rate,  # a group of its own
                "schedule": "cosine",
                "weight_decay": 0.01,
                "eps": 1e-6,
            },
            "steps": STEPS,
            "log_every_steps": 1,
            "evaluate_every_steps": 10,
            "save_every_steps": 10,
        }

    translation, math = "tinyworld_translation", "tinyworld_math"
    values = {
        "name": "parity",
        "output_dir": str(folder),
        "language_model": {"path": "tinyworld:llm"},
        "encoder": {"path": "tinyworld:encoder"},
        "languages": ["sw"],
        "threads": 1,
        "recipes": {
            "question_alignment": {
                "translation": stage("translation", translation, 5e-5),
                "response": stage("problem", math, 5e-5),
            },
            "mindmerger": {
                "mapping": stage("translation", "mapping", 3e-4),
                "augmentation": stage("problem", math, 3e-4),
            },
            "queries": {"mapping": stage("translation", "mapping", 3e-4)},
            "layers": {"translation": stage("translation", "mapping", 3e-4)},
            "everything": {
                "mapping": {
                    **stage("translation", "mapping", 5e-5),
                    "trains": ["connector", "encoder", "language_model"],
                    "gradient_checkpointing": True,
                }
            },
        },
        "variants": {
            "everything": {"method": "mindmerger", "stages": ["mapping"]},
            "queries": {
                "method": "mindmerger",
                "stages": ["mapping"],
                "connector": {"kind": "qformer", "queries": 6, "width": 32, "heads": 2, "cross_attention_every": 2},
            },
            "layers": {"method": "layalign", "stages": ["translation"]},
        },
    }
    return parse_run(apply_overrides(values, overrides), "parity_worker.py")


def optimizer_elements(engine: zero.ZeroEngine) -> Iterator[int]:
    """The state of each group of parameters; what lies on a disk is brought in to be counted."""
    if engine.stage < 3:
        yield from (flat.numel() for flat in engine._flat_partitions())
        return
    for group in engine._groups():
        with engine._at_hand(group):
            yield engine._flat_partitions()[group].numel()


def account(trainer: Trainer) -> dict[str, object]:
    """What this rank holds at the end of a stage."""
    engine = trainer.engine
    named = dict(trainer.engine.shapes())
    kept: dict[str, object] = {"trainable": len(named), "data_size": trainer.context.data_size}
    if isinstance(engine, zero.ZeroEngine):
        model = engine.engine.module
        frozen = [p for p in model.parameters() if not p.requires_grad]
        kept["frozen_gradients"] = sum(p.grad is not None for p in frozen)
        kept["optimizer_elements"] = sum(optimizer_elements(engine))
        kept["trainable_elements"] = sum(getattr(p, "ds_numel", p.numel()) for p in engine._named.values())
        if engine.stage == 3:
            parts = [(p.ds_tensor.numel(), p.ds_numel) for p in model.parameters()]  # type: ignore[attr-defined]
            kept["held_elements"], kept["all_elements"] = sum(a for a, _ in parts), sum(b for _, b in parts)
    return kept


def main() -> None:
    folder = Path(sys.argv[1])
    run = configuration(folder, sys.argv[2:])
    torch.set_num_threads(1)
    accounts: dict[str, object] = {}
    finish = Trainer.run

    def noted(trainer: Trainer) -> Path:
        path = finish(trainer)
        accounts[trainer.title] = account(trainer)
        return path

    Trainer.run = noted  # type: ignore[method-assign]
    world = started()
    for name in run.recipes:
        prepare(stages_up_to(run, f"{name}.{recipe(run, name).stages[-1].name}"), world)
    with joined(run.parallel, world) as context:
        for name in run.recipes:
            train_method(run, recipe(run, name), context)
        (folder / f"account-{context.rank}.json").write_text(json.dumps(accounts), encoding="utf-8")


if __name__ == "__main__":
    main()
    leave(0)
