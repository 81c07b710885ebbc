"""Memory of each rank while it loads its pieces of a sharded checkpoint: mmscale bench loading-memory [--gigabytes 2]

Makes a random LLaMA in bfloat16, saves it in safetensors shards, then loads it on two ranks cut by tensor parallelism
or partitioned by ZeRO-3, and on four by both. Reported is anonymous resident memory (RssAnon): pages of a mapped file belong to the page
cache. A rank should never hold more than its share, one shard and what Python needs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from mmscale.cli.devices import joined
from mmscale.config.model import LanguageModelConfig
from mmscale.config.parallel import ParallelConfig, ZeroConfig
from mmscale.config.training import StageConfig
from mmscale.models.language_model import load_language_model
from mmscale.models.places import resolve_path
from mmscale.parallel.world import free_port, leave
from mmscale.parallel.zero import partitioned_loading

from .recording import record

MODES = {
    "tensor parallel 2": ParallelConfig(tensor_parallel_size=2),
    "ZeRO-3 on 2": ParallelConfig(zero=ZeroConfig(stage=3)),
    "tensor parallel 2, ZeRO-3 on 2": ParallelConfig(tensor_parallel_size=2, zero=ZeroConfig(stage=3)),
}
RANKS = {mode: 4 if "ZeRO" in mode and "tensor" in mode else 2 for mode in MODES}
MIB = 2**20


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise OSError("this system does not report RssAnon")


@contextlib.contextmanager
def peak() -> Iterator[list[int]]:
    """The largest anonymous memory while inside, looked at every two milliseconds; filled in at the end."""
    found, running = [anonymous_bytes()], True

    def watch() -> None:
        while running:
            found[0] = max(found[0], anonymous_bytes())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        running = False
        thread.join()


def load(folder: str, mode: str) -> None:
    """One rank: load, and print what it took."""
    parallel = MODES[mode]
    with joined(parallel) as context:
        stage = StageConfig(steps=1, precision="bfloat16")
        with partitioned_loading(parallel.zero, stage, context):
            pass  # DeepSpeed's own start is not loading
        before = anonymous_bytes()
        with peak() as found, partitioned_loading(parallel.zero, stage, context) as partition:
            model = load_language_model(LanguageModelConfig(path=folder, dtype="bfloat16"), context, partition)
        held = anonymous_bytes() - before
        gathered = context.gather({"peak": found[0] - before, "held": held})
        assert model.width
        if context.is_first:
            print(json.dumps(gathered))


def make(folder: Path, gigabytes: float) -> tuple[int, int]:
    """A random checkpoint; (bytes in all, bytes of its largest shard)."""
    width = 2048
    layer = 4 * width * width + 3 * width * 5504
    layers = max(1, round((gigabytes * 1e9 / 2 - 2 * 2048 * width) / layer))
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=5504,
        num_hidden_layers=layers,
        num_attention_heads=16,
        vocab_size=2048,
        max_position_embeddings=512,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="250MB")
    for file in Path(resolve_path("tinyworld:llm")).glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    return sum(sizes), max(sizes)


def ranks(folder: Path, mode: str) -> list[dict[str, int]]:
    """What each rank reports."""
    # without it glibc keeps what was freed, and the measurement shows that instead
    quiet = {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TQDM_DISABLE": "1"}
    world = {"WORLD_SIZE": str(RANKS[mode]), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "mmscale.benchmarks.loading_memory", "--load", str(folder), mode],
            env={**os.environ, **quiet, **world, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS[mode])
    ]
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit(f"loading failed under {mode}")
    answer: list[dict[str, int]] = json.loads(outputs[0].strip().splitlines()[-1])
    return answer


def measure(gigabytes: float) -> dict[str, object]:
    """Every mode on one checkpoint."""
    with tempfile.TemporaryDirectory() as name:
        total, shard = make(Path(name), gigabytes)
        found = {mode: ranks(Path(name), mode) for mode in MODES}
    return {
        "checkpoint_bytes": total,
        "largest_shard_bytes": shard,
        "ranks": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "MODE"), help="be one rank")
    arguments = parser.parse_args()
    if arguments.load:
        load(*arguments.load)
        leave(0)
    found = measure(arguments.gigabytes)
    record("loading_memory", found)
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    total, shard = found["checkpoint_bytes"], found["largest_shard_bytes"]
    assert isinstance(total, int) and isinstance(shard, int) and isinstance(found["ranks"], dict)
    print(f"checkpoint {total / MIB:,.0f} MiB, largest shard {shard / MIB:,.0f} MiB")
    for mode, both in found["ranks"].items():
        for rank, one in enumerate(both):
            limit = total / RANKS[mode] + shard
            print(
                f"{mode}, rank {rank}: peak {one['peak'] / MIB:,.0f} MiB = {100 * one['peak'] / total:.0f} % of the checkpoint "
                f"(share + one shard {limit / MIB:,.0f}), afterwards {one['held'] / MIB:,.0f}"
            )


if __name__ == "__main__":
    main()
