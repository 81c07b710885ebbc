"""A large model through training and out again, unchanged: python benchmarks/export_round_trip.py [--gigabytes 1]

A random LLaMA in bfloat16 is trained for a step whose learning rate moves nothing (not even an exact zero, in bfloat16), by two ranks under tensor
parallelism and ZeRO-1, and under ZeRO-3; the folder that the stage hands on must hold every tensor bit for bit, and
transformers must load it. Exit code 1 when it does not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from loading_memory import make
from recording import record
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from mmscale.cli.processes import run_processes
from mmscale.conversion.tensor_files import TensorFiles

STAGE = "multilingual_cot.tuning"
LAYOUTS = {
    "tensor parallel 2, ZeRO-1": ["parallel.tensor_parallel_size=2", "parallel.zero.stage=1"],
    "ZeRO-3 on 2": ["parallel.zero.stage=3"],
}


def train(model: Path, folder: Path, layout: list[str]) -> Path:
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
    if run_processes(2, [*arguments, *layout]) != 0:
        sys.exit("training failed")
    return folder / "stages" / STAGE / "model"


def different(before: Path, after: Path) -> list[str]:
    """Names of the tensors that are not the same, bit for bit."""
    old, new = TensorFiles(before), TensorFiles(after)
    names = sorted({*old, *new})
    return [name for name in names if name not in {*old} & {*new} or not torch.equal(old.read(name), new.read(name))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    chosen = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "DS_ACCELERATOR": "cpu"}
    found = {}
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        total, _ = make(model, chosen.gigabytes)
        for title, layout in LAYOUTS.items():
            out = train(model, Path(name) / title.replace(" ", "-"), layout)
            wrong = different(model, out)
            with safe_open(next(iter(sorted(out.glob("*.safetensors")))), framework="pt") as file:
                dtype = file.get_slice(next(iter(file.keys()))).get_dtype()
            loaded = sum(
                p.numel() for p in AutoModelForCausalLM.from_pretrained(out, dtype=torch.bfloat16).parameters()
            )
            found[title] = {"different": wrong[:5], "dtype": dtype, "loaded_parameters": loaded}
            verdict = "every tensor bit for bit" if not wrong else f"{len(wrong)} TENSORS DIFFER, first {wrong[0]}"
            print(
                f"{title}: {total / 2**20:,.0f} MiB in {dtype}, {verdict}; transformers loads {loaded:,} parameters",
                flush=True,
            )
    print(record("export_round_trip", {"checkpoint_bytes": total, "layouts": found}))
    sys.exit(any(one["different"] for one in found.values()))


if __name__ == "__main__":
    main()
