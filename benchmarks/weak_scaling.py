"""The same work for every rank, on one to four: mmscale bench weak-scaling [--ranks 1 2 4]

Measured: MindMerger's mapping stage on the embedded models, 32 examples per rank and step, one thread per rank, gloo. On a
machine with fewer cores than ranks the ranks share them, so that the table says what communication costs only up to
the number of cores; beyond it the best possible is cores / ranks.

Predicted, from the planner: full fine-tuning of a LLaMA-2-7B on the H100 nodes of configs/cluster/h100.yaml. Nobody
has measured that here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mmscale.cli.processes import run_processes
from mmscale.config.cluster import load_cluster
from mmscale.planning import throughput, traffic
from mmscale.planning.memory import Trained
from mmscale.planning.parallel_plan import ParallelPlan
from mmscale.training.metrics import read_metrics

from .recording import record

STAGE = "mindmerger.mapping"
STEPS, SKIPPED = 30, 5
EXAMPLES = 32
"""Examples per rank and step."""
LLAMA_2_7B = SimpleNamespace(
    hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, vocab_size=32000, tie_word_embeddings=False
)
PARAMETERS, SEQUENCE, ROWS = 6_738_415_616, 4096, 4


def measured(ranks: int, zero: int) -> float:
    """Merged tokens per second of all ranks, median over steps."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = f"recipes.{STAGE}"
        settings = {
            "output_dir": folder,
            "threads": 1,
            "parallel.zero.stage": zero,
            f"{recipe}.steps": STEPS,
            f"{recipe}.log_every_steps": 1,
            f"{recipe}.packing": f"{{global_batch_size: {EXAMPLES * ranks}, row_tokens: 4096}}",
            f"{recipe}.data.0.limit_per_language": 400,
        }
        arguments = ["train", "configs/quickstart.yaml", STAGE, *(f"{key}={value}" for key, value in settings.items())]
        if run_processes(ranks, arguments) != 0:
            sys.exit(1)
        rows = read_metrics(Path(folder) / "stages" / STAGE / "metrics.jsonl")
        speeds = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    return statistics.median(speeds[SKIPPED:])


def predicted(gpus: int) -> float:
    """Tokens per second of all GPUs under ZeRO-2, bfloat16, checkpointing."""
    cluster = load_cluster("configs/cluster/h100.yaml")
    work = throughput.token_work(LLAMA_2_7B, PARAMETERS, SEQUENCE, 1.0, True, True)
    tokens, parallel_plan = ROWS * SEQUENCE, ParallelPlan(gpus, 1, 2)
    trained = Trained(
        llm=(PARAMETERS,),
        encoder=(),
        connector=(),
        trains_llm=True,
        llm_dtype="float32",
        encoder_dtype="float32",
        autocast=True,
    )
    sent = traffic.traffic(trained, parallel_plan, traffic.Step(ROWS, 0, 32, True))
    tensor, data = traffic.seconds(sent, parallel_plan, cluster.gpu, cluster.gpus_per_node)
    compute = throughput.seconds_of(tokens * work.hardware, cluster.gpu.peak_tflops)
    return gpus * tokens / throughput.step_seconds(compute, tensor, data)


def table(title: str, speeds: dict[int, float]) -> None:
    first = min(speeds)
    print(f"{title}\n{'ranks':>7} {'tokens/s':>12} {'a rank':>10} {'efficiency':>11}")
    for ranks, speed in speeds.items():
        share = speed / ranks / (speeds[first] / first)
        print(f"{ranks:7} {speed:12,.0f} {speed / ranks:10,.0f} {100 * share:10.0f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    found: dict[str, Any] = {}
    for zero in (0, 2):
        speeds = {ranks: measured(ranks, zero) for ranks in chosen.ranks}
        name = f"ZeRO-{zero}" if zero else "replicated"
        table(f"measured on {os.cpu_count()} CPU cores, {name}", speeds)
        found[name] = speeds
    predictions = {gpus: predicted(gpus) for gpus in (8, 16, 32, 64, 128, 256, 512)}
    table("PREDICTED for H100 nodes of 8, LLaMA-2-7B, ZeRO-2; measured by nobody", predictions)
    print(record("weak_scaling", {"measured_tokens_per_s": found, "predicted_tokens_per_s": predictions}))


if __name__ == "__main__":
    main()
