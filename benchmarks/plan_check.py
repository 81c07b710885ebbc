"""Planned memory and step time against measured ones, of real training steps on random weights: mmscale bench plan-check

Two stages of configurations that ship, on one device: MindMerger's mapping (frozen LLaMA-2-7B, trained connector, encoder
states that come with the rows) and a full fine-tuning (Sheared LLaMA's 1.3B, float32 weights under autocast, AdamW). What
mmscale plan says of them stands beside what a few steps take: torch's allocator at its most, without the CUDA context, for
which a plan allows 1 GiB. --shape small does the same with small models, for a machine without a GPU, whose allocations are
counted by torch's profiler; a plan says nothing of a CPU's speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, MT5Config

from mmscale.config.cluster import ClusterConfig, GpuConfig
from mmscale.config.run import load_run
from mmscale.data.packing import PackedRow, balance_rows, pack
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.models.assembly import checkpoint_activations
from mmscale.models.connectors import connector
from mmscale.models.language_model import LanguageModel
from mmscale.models.loading import DTYPES, freeze
from mmscale.models.merge import MergedModel
from mmscale.parallel.context import ParallelContext
from mmscale.planning.parallel_plan import ParallelPlan
from mmscale.planning.plan import Given, Planned, Planner
from mmscale.runs.run import stages_up_to
from mmscale.runs.stage import Stage
from mmscale.training.engines import make_engine
from mmscale.training.engines.local import LocalEngine
from mmscale.training.objective import CausalObjective

from .memory import OUT_OF_MEMORY, peak_bytes, release
from .recording import record
from .shapes import LLAMA, MT5_XL, random_llama
from .step_work import peak_tflops

EXAMPLE, TARGETS = 256, 128
"""Merged tokens of every example, and those of them that are targets: rows are as full as their plan says."""
EXAMPLES = 100_000
"""In an epoch: enough for encoder states to be kept on disk."""
_SMALL_T5 = {"vocab_size": 2000, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


@dataclass(frozen=True)
class PlannedCase:
    name: str
    file: str
    """A configuration that ships."""
    stage: str
    llm: dict[str, Any]
    encoder: dict[str, Any] | None = None
    settings: tuple[str, ...] = ()
    """What is laid over the configuration."""


def _cases(shape: str, precision: str | None) -> list[PlannedCase]:
    small = shape == "small"
    llama, whole = (LLAMA["little"], LLAMA["little"]) if small else (LLAMA["7b"], LLAMA["1b"])
    encoder = {**MT5_XL, **(_SMALL_T5 if small else {})}
    mapping, response = "mindmerger.mapping", "question_alignment.response"

    def settings(stage: str) -> tuple[str, ...]:
        key = f"recipes.{stage}"
        less = (f"{key}.packing.row_tokens=1024", f"{key}.packing.global_batch_size=8") if small else ()
        return (*less, *((f"{key}.precision={precision}",) if precision else ()))

    return [
        PlannedCase("mapping", "configs/mindmerger/llama2-7b-mt5-xl.yaml", mapping, llama, encoder, settings(mapping)),
        PlannedCase(
            "full fine-tuning",
            "configs/question_alignment/llama2-7b.yaml",
            response,
            whole,
            settings=("parallel.zero.stage=0", *settings(response)),
        ),
    ]


def planned_of(case: PlannedCase, folder: Path, device: torch.device, attends: str) -> tuple[Stage, Planned]:
    """The stage, and what `mmscale plan` says of it on this device alone; models are config.json files in `folder`."""
    LlamaConfig(**case.llm, architectures=["LlamaForCausalLM"]).save_pretrained(folder / "llm")
    model = [f"language_model.path={folder / 'llm'}", f"language_model.attention={attends}"]
    settings = [f"output_dir={folder / 'run'}", *model, *case.settings]
    if case.encoder is not None:
        MT5Config(**case.encoder).save_pretrained(folder / "encoder")
        settings.append(f"encoder.path={folder / 'encoder'}")
    stage = stages_up_to(load_run(case.file, settings), case.stage)[-1]
    gpus = 1 if device.type == "cuda" else 0
    planner = Planner(stage.run, ClusterConfig(nodes=1, gpus_per_node=gpus, ranks_per_node=1, gpu=_gpu(device)))
    mean = planner.examples(stage, Given(EXAMPLE, TARGETS, EXAMPLES))
    return stage, planner.stage(stage, ParallelPlan(1, 1, 0), mean)


def _gpu(device: torch.device) -> GpuConfig:
    if device.type != "cuda":
        return GpuConfig()
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return GpuConfig(memory_gib=memory, peak_tflops=peak_tflops(device) or GpuConfig().peak_tflops)


def engine_of(stage: Stage, case: PlannedCase, device: torch.device, attends: str) -> LocalEngine:
    """The model of a stage with random weights, made trainable and given its optimizer as the trainer does."""
    run, context = stage.run, ParallelContext(device=device)
    causal = random_llama(case.llm, device, DTYPES[run.language_model.dtype], attends)
    joins = None
    if case.encoder is not None:
        joins = connector(stage.connector).build(case.encoder["d_model"], case.llm["hidden_size"]).to(device)
    model = MergedModel(LanguageModel(causal, None, SpecialTokens(1, 2)), None, joins)
    freeze(model)
    for one in stage.components:
        one.make_trainable(model)
    if stage.config.gradient_checkpointing:
        checkpoint_activations(model.language_model)
    engine = make_engine(CausalObjective(model), stage.config, run.parallel.zero, context)
    assert isinstance(engine, LocalEngine)
    return engine


def rows_of(stage: Stage, case: PlannedCase) -> list[PackedRow]:
    """A step's rows, packed as the trainer packs them, with encoder states where there is an encoder."""
    generator, packing = torch.Generator().manual_seed(0), stage.config.packing
    vocabulary, encoded = case.llm["vocab_size"], 0 if case.encoder is None else EXAMPLE - TARGETS - 1
    states = None
    if case.encoder is not None and stage.encoder is not None:
        states = torch.randn(encoded, case.encoder["d_model"], generator=generator).to(DTYPES[stage.encoder.dtype])

    def ids(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, vocabulary, (count,), generator=generator).tolist())

    examples = [
        TokenizedExample(
            prompt_ids=() if encoded else ids(EXAMPLE - TARGETS),
            target_ids=ids(TARGETS),
            encoder_ids=ids(encoded),
            language="en",
            origin=f"random {i}",
            encoder_states=states,
        )
        for i in range(packing.global_batch_size or 1)
    ]
    length = [EXAMPLE] * len(examples)
    chosen = balance_rows(length, range(len(examples)), packing.row_tokens)
    return [pack([examples[i] for i in row], SpecialTokens(1, 2)) for row in chosen]


def measured_on(engine: LocalEngine, rows: list[PackedRow], device: torch.device, steps: int) -> dict[str, Any]:
    """Bytes at most, and seconds of a step, once optimizer state is there."""
    rate = engine.config.optimizer.learning_rate
    engine.train_step(rows, rate)
    engine.optimizer.zero_grad(set_to_none=True)
    if device.type != "cuda":
        held = [*engine.objective.module.parameters(), *engine.objective.module.buffers()]
        held += [value for state in engine.optimizer.state.values() for value in state.values()]
        standing = sum(tensor.numel() * tensor.element_size() for tensor in held)
        peak = standing + peak_bytes(lambda: engine.train_step(rows, rate))
        return {"allocated_bytes": peak, "reserved_bytes": None, "context_bytes": None, "step_seconds": None}
    release()
    torch.cuda.reset_peak_memory_stats(device)
    took = []
    for _ in range(steps):
        began = time.perf_counter()
        engine.train_step(rows, rate)
        torch.cuda.synchronize(device)
        took.append(time.perf_counter() - began)
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
        "context_bytes": total - free - torch.cuda.memory_reserved(device),
        "step_seconds": min(took),
    }


def check(case: PlannedCase, device: torch.device, attends: str, steps: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        stage, planned = planned_of(case, Path(name), device, attends)
    rows = rows_of(stage, case)
    assert len(rows) == planned.rows_per_step and max(sum(row.lengths) for row in rows) == planned.row_tokens
    assert all(row.target_tokens == planned.row_targets for row in rows), "full rows of like examples"
    held = planned.memory_bytes
    found: dict[str, Any] = {
        "case": case.name,
        "failure": None,
        "config": case.file,
        "stage": case.stage,
        "precision": stage.config.precision,
        "gradient_checkpointing": stage.config.gradient_checkpointing,
        "attention": attends,
        "rows": len(rows),
        "row_tokens": planned.row_tokens,
        "planned": {
            "allocated_bytes": held["peak"] - held["context"],
            "by_component": held,
            "step_seconds": planned.step_seconds if peak_tflops(device) else None,
            "mfu": planned.mfu if peak_tflops(device) else None,
        },
    }
    try:
        real = measured_on(engine_of(stage, case, device, attends), rows, device, steps)
    except torch.OutOfMemoryError:
        return {**found, "failure": OUT_OF_MEMORY, "measured": None}
    except Exception as error:  # the other case is still worth measuring, and this is told
        traceback.print_exc()
        return {**found, "failure": f"{type(error).__name__}: {error}", "measured": None}
    found["measured"] = real
    found["memory_ratio"] = real["allocated_bytes"] / found["planned"]["allocated_bytes"]
    if real["step_seconds"] and found["planned"]["step_seconds"]:
        found["time_ratio"] = real["step_seconds"] / planned.step_seconds
        real["mfu"] = planned.mfu / found["time_ratio"]
    return found


def show(cases: list[dict[str, Any]]) -> None:
    table = Table("case", "GiB planned", "measured", "measured / planned", "reserved", "s planned", "measured", "MFU")

    def shown(value: float | None, unit: float = 1, form: str = ".2f") -> str:
        return "-" if value is None else format(value / unit, form)

    for one in cases:
        real = one["measured"] or {}
        table.add_row(
            f"{one['case']}, {one['precision']}",
            shown(one["planned"]["allocated_bytes"], 2**30),
            one["failure"] or shown(real.get("allocated_bytes"), 2**30),
            shown(one.get("memory_ratio"), form=".3f"),
            shown(real.get("reserved_bytes"), 2**30),
            shown(one["planned"]["step_seconds"]),
            shown(real.get("step_seconds")),
            shown(real.get("mfu"), form=".1%"),
        )
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    parser.add_argument("--shape", choices=["7b", "small"], default="7b" if gpu else "small", help="of the models")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="instead of the configurations'")
    parser.add_argument("--attention", default="auto", help="language_model.attention, as run and as planned for")
    parser.add_argument("--steps", type=int, default=2, help="that are measured, after a first one")
    parser.add_argument("--json", action="store_true", help="one object on standard output instead of a table")
    chosen = parser.parse_args()
    name = torch.cuda.get_device_name(device) if gpu else "not measured"
    document: dict[str, Any] = {"device": device.type, "gpu": name, "shape": chosen.shape, "cases": []}
    file = "plan_check" if chosen.shape == "7b" else f"plan_check_{chosen.shape}"
    path = Path()
    for case in _cases(chosen.shape, chosen.precision):
        document["cases"].append(check(case, device, chosen.attention, chosen.steps))
        release()
        path = record(file, document)
    if chosen.json:
        print(json.dumps(document, indent=2))
    else:
        show(document["cases"])
        print(path)
    wrong = [one for one in document["cases"] if one["failure"] not in (None, OUT_OF_MEMORY)]
    if wrong:
        sys.exit("\n".join(f"{one['case']}: {one['failure']}" for one in wrong))


if __name__ == "__main__":
    main()
