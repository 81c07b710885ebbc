"""What a result is made with: versions, hardware, threads, algorithms."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

import torch

from mmscale.config.run import RunConfig

_PACKAGES = (
    "mmscale",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "datasets",
    "numpy",
    "triton",
    "flash-attn",
    "deepspeed",
    "megatron-core",
)


_CUBLAS_WORKSPACE = ":4096:8"
"""With it cuBLAS gives the same bits every time (cuBLAS library guide, "Results reproducibility")."""


def set_up_torch(run: RunConfig) -> None:
    """Threads and algorithms of a run, for the whole process."""
    if run.threads:
        torch.set_num_threads(run.threads)
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _CUBLAS_WORKSPACE)
    torch.use_deterministic_algorithms(run.deterministic)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as handle:
            return next(
                (line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")), platform.machine()
            )
    except OSError:
        return platform.processor() or platform.machine()


def describe_environment() -> dict[str, Any]:
    """For environment.json and the report."""
    gpus = (
        [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    return {
        "python": sys.version.split()[0],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.release()}",
    }
