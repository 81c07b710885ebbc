"""One rank = two = four, replicated = ZeRO-1 = 2 = 3, each also under tensor parallelism: losses of 20 steps and final weights, fp32.

Each launch trains all four stages of question alignment and MindMerger, MindMerger's first with a QFormer as its
connector, and LayAlign's first: a run of its own is mostly imports.
"""

from __future__ import annotations

import ctypes.util
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mmscale.training.metrics import read_metrics
from tests.distributed import ranks
from tests.distributed.parity_worker import STEPS

pytest.importorskip("deepspeed", reason="extra deepspeed")
STAGES = (
    "question_alignment.translation",
    "question_alignment.response",
    "mindmerger.mapping",
    "mindmerger.augmentation",
    "queries.mapping",
    "layers.translation",
    "everything.mapping",
)
RELATIVE = 1e-5
WEIGHTS = 2e-5
"""AdamW divides by the root of the second moment: an entry whose gradient is rounding alone moves by its learning rate
times noise, so weights agree less closely than losses do."""
NOTHING = 1e-3
"""Norm of what is not told from zero: a QFormer's key biases, which begin there, have no gradient but rounding."""


def launch(folder: Path, count: int, *overrides: str) -> Path:
    folder.mkdir(parents=True)
    ranks.run(count, ["tests/distributed/parity_worker.py", str(folder), *overrides])
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    return launch(tmp_path_factory.mktemp("one") / "run", 1)


def losses(folder: Path, stage: str, key: str = "loss") -> torch.Tensor:
    rows = read_metrics(folder / "stages" / stage / "metrics.jsonl")
    return torch.tensor([row[key] for row in rows if key in row], dtype=torch.float64)


def weights(folder: Path, stage: str) -> dict[str, torch.Tensor]:
    model = folder / "stages" / stage / "model"
    files = sorted(model.rglob("*.safetensors"))
    return {f"{file.relative_to(model)}/{name}": value for file in files for name, value in load_file(file).items()}


def require_parity(one: Path, other: Path) -> None:
    for stage in STAGES:
        expected, found = losses(one, stage), losses(other, stage)
        assert len(expected) == len(found) == STEPS and torch.isfinite(found).all()
        worst = ((expected - found).abs() / expected).max().item()
        assert worst < RELATIVE, f"{stage}: losses differ by {worst:.1e}"
        assert torch.allclose(losses(one, stage, "dev_loss"), losses(other, stage, "dev_loss"), rtol=RELATIVE)
        norms = losses(one, stage, "gradient_norm"), losses(other, stage, "gradient_norm")
        assert torch.allclose(*norms, rtol=1e-4), stage
        left, right = weights(one, stage), weights(other, stage)
        assert left.keys() == right.keys() and left
        for name in left:
            difference = (left[name].float() - right[name].float()).abs()
            assert difference.max() < WEIGHTS, f"{stage}: {name}"
            least = left[name].float().norm().clamp_min(NOTHING)
            assert difference.norm() < RELATIVE * least, f"{stage}: {name}"


SLOW = pytest.mark.slow
ON_CPU = "{device: cpu, pin_memory: false}"
ON_DISK = "{device: nvme, nvme_path: FOLDER, pin_memory: false}"
MORE = {
    "": [],
    "sequence": ["parallel.sequence_parallel=true"],
    "offload-optimizer": [f"parallel.zero.offload_optimizer={ON_CPU}"],
    "offload-all": [f"parallel.zero.offload_optimizer={ON_CPU}", f"parallel.zero.offload_parameters={ON_CPU}"],
    "hierarchical": ["parallel.zero.hierarchical_partition_size=2"],
    "offload-disk": [f"parallel.zero.offload_optimizer={ON_DISK}", f"parallel.zero.offload_parameters={ON_DISK}"],
}


@pytest.mark.parametrize(
    ("count", "stage", "degree", "more"),
    [
        pytest.param(2, 0, 1, "", marks=SLOW),  # three such ranks: tests/distributed/test_evaluation.py
        pytest.param(2, 2, 1, "offload-optimizer", marks=SLOW),
        (2, 3, 1, "offload-all"),
        (2, 0, 2, ""),
        *(pytest.param(2, stage, 1, "", marks=SLOW) for stage in (1, 2, 3)),
        *(pytest.param(4, stage, 1, "", marks=SLOW) for stage in (0, 1, 2, 3)),
        *(pytest.param(4, stage, 2, "", marks=SLOW) for stage in (0, 1, 2, 3)),
        *(pytest.param(4, stage, 2, "sequence", marks=SLOW) for stage in (0, 1, 2, 3)),
        pytest.param(4, 3, 2, "offload-all", marks=SLOW),
        pytest.param(2, 3, 1, "offload-disk", marks=SLOW),
        pytest.param(4, 3, 1, "hierarchical", marks=SLOW),
    ],
    ids=lambda value: str(value),
)
def test_many_ranks_train_as_one(one, tmp_path, count, stage, degree, more):
    if more == "offload-disk" and ctypes.util.find_library("aio") is None:
        pytest.skip("DeepSpeed writes to NVMe through libaio")
    # no parameter of a model this small would be partitioned at DeepSpeed's default threshold
    settings = [f"parallel.zero.stage={stage}", "parallel.zero.persistence_threshold=0"]
    settings += [
        f"parallel.tensor_parallel_size={degree}",
        *(one.replace("FOLDER", f"{tmp_path}/disk") for one in MORE[more]),
    ]
    run = launch(tmp_path / "run", count, *settings)
    require_parity(one, run)
    accounts = [json.loads((run / f"account-{rank}.json").read_text()) for rank in range(count)]
    shards = count // degree
    for account in accounts:
        for kept in account.values():
            assert kept["data_size"] == shards
            if stage:
                share = kept["trainable_elements"] / shards
                assert kept["frozen_gradients"] == 0
                assert share <= kept["optimizer_elements"] < 1.02 * share + 64, (
                    "frozen parameters have no optimizer state"
                )
            if stage == 3:
                assert kept["held_elements"] < 1.01 * kept["all_elements"] / shards + 64
