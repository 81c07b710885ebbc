"""A large model through training and out again, unchanged: mmscale bench export-round-trip [--gigabytes 1]

A random LLaMA in bfloat16 is trained for a step whose learning rate moves nothing (not even an exact zero, in bfloat16),
by two ranks under tensor parallelism and ZeRO-1, and under ZeRO-3; the folder that the stage hands on must hold every
tensor bit for bit, and transformers must load it. The export is then repeated alone, in a process of its own, in shards
of 250 MB: its anonymous memory (RssAnon) may grow by two shards, never by the model. Exit code 1 when one fails.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from mmscale.cli.processes import run_processes
from mmscale.config.model import LanguageModelConfig
from mmscale.data.segments import SpecialTokens
from mmscale.models.counting import empty_language_model
from mmscale.models.export import TRUNK_PREFIX, export
from mmscale.models.language_model import LanguageModel, load_tokenizer
from mmscale.models.tensor_files import TensorFiles
from mmscale.parallel.context import ParallelContext
from mmscale.training.fragments import SavedState

from .loading_memory import anonymous_bytes, make, peak
from .recording import record

SHARD = 250 * 10**6
STAGE = "multilingual_cot.tuning"
LAYOUTS = {
    "tensor parallel 2, ZeRO-1": ["parallel.tensor_parallel_size=2", "parallel.zero.stage=1"],
    "ZeRO-3 on 2": ["parallel.zero.stage=3"],
}


def train(model: Path, folder: Path, context: list[str]) -> Path:
    """The folder that one step of a stage hands on."""
    recipe = f"recipes.{STAGE}"
    settings = {
        "output_dir": folder,
        "language_model": f"{{path: {model}, dtype: bfloat16}}",
        "threads": 1,
        f"{recipe}.steps": 1,
        f"{recipe}.precision": "bfloat16",
        f"{recipe}.gradient_checkpointing": "true",
        f"{recipe}.optimizer": "{learning_rate: 1.0e-45, weight_decay: 0.0}",
        f"{recipe}.packing": "{global_batch_size: 2, row_tokens: 256}",
        f"{recipe}.data.0.limit_per_language": 4,
    }
    arguments = ["train", "configs/quickstart.yaml", STAGE, *(f"{key}={value}" for key, value in settings.items())]
    if run_processes(2, [*arguments, *context]) != 0:
        sys.exit("training failed")
    return folder / "stages" / STAGE / "model"


def export_alone(model: str, checkpoint: str, folder: str) -> None:
    """A process of its own: from a sharded checkpoint to safetensors; prints the bytes that it took at most."""
    config = LanguageModelConfig(path=model)
    empty = LanguageModel(empty_language_model(config), load_tokenizer(config), SpecialTokens(0, 0))
    before = anonymous_bytes()
    with peak() as found:
        saved = SavedState(Path(checkpoint))
        export(
            empty,
            lambda name: saved.parameter(TRUNK_PREFIX + name),
            Path(folder),
            ParallelContext(device=torch.device("cpu")),
            SHARD,
        )
    print(found[0] - before)


def memory_of_export(model: Path, trained: Path, folder: Path) -> int:
    """Bytes that `export_alone` reports for a stage's last checkpoint."""
    folder.mkdir()
    checkpoint = max((trained.parent / "checkpoints").glob("step-*"))
    command = [
        sys.executable,
        "-m",
        "mmscale.benchmarks.export_round_trip",
        "--export",
        str(model),
        str(checkpoint),
        str(folder),
    ]
    # without it glibc keeps what was freed, and the measurement shows that instead
    quiet = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    return int(subprocess.run(command, env=quiet, stdout=subprocess.PIPE, text=True, check=True).stdout)


def different(before: Path, after: Path) -> list[str]:
    """Names of the tensors that are not the same, bit for bit."""
    old, new = TensorFiles(before), TensorFiles(after)
    names = sorted({*old, *new})
    return [name for name in names if name not in {*old} & {*new} or not torch.equal(old.read(name), new.read(name))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--export", nargs=3, metavar=("MODEL", "CHECKPOINT", "FOLDER"), help="be the export alone")
    chosen = parser.parse_args()
    if chosen.export:
        export_alone(*chosen.export)
        return
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    found = {}
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        total, _ = make(model, chosen.gigabytes)
        for title, context in LAYOUTS.items():
            out = train(model, Path(name) / title.replace(" ", "-"), context)
            wrong = different(model, out)
            alone = Path(name) / "alone"
            took = memory_of_export(model, out, alone)
            wrong += different(model, alone)
            shutil.rmtree(alone)
            with safe_open(next(iter(sorted(out.glob("*.safetensors")))), framework="pt") as file:
                dtype = file.get_slice(next(iter(file.keys()))).get_dtype()
            loaded = sum(
                p.numel() for p in AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).parameters()
            )
            found[title] = {"different": wrong[:5], "dtype": dtype, "loaded_parameters": loaded, "export_bytes": took}
            verdict = "every tensor bit for bit" if not wrong else f"{len(wrong)} TENSORS DIFFER, first {wrong[0]}"
            shutil.rmtree(out.parents[2])
            print(
                f"{title}: {total / 2**20:,.0f} MiB in {dtype}, {verdict}; transformers loads {loaded:,} parameters; "
                f"exporting takes {took / 2**20:,.0f} MiB in shards of {SHARD / 2**20:,.0f}",
                flush=True,
            )
    print(record("export_round_trip", {"checkpoint_bytes": total, "layouts": found}))
    sys.exit(any(one["different"] or one["export_bytes"] > 2 * SHARD for one in found.values()))


if __name__ == "__main__":
    main()
