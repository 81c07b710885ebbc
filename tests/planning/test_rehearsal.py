"""A dry run at the full number of ranks: groups, pieces and one step's collectives of ranks that do not exist."""

from __future__ import annotations

import json

import pytest
import torch.distributed as dist
from transformers import LlamaConfig

from mmscale.cli.main import main
from mmscale.config.cluster import ClusterConfig
from mmscale.config.run import load_run
from mmscale.parallel import tensor
from mmscale.parallel.shards import Shard, even_shard
from mmscale.planning import rehearsal
from tests.planning.test_plan import paths_of

pytest.importorskip("megatron.core", reason="extra tensor-parallel")


@pytest.mark.parametrize(
    ("config", "sequence", "calls"),
    [
        # 2 rows; a layer: after attention and MLP, before each on the way back, and one recomputed; embedding, head, loss
        ("mindmerger/llama2-70b-mt5-xl", False, {"allreduce": 2 * (5 * 80 + 1 + 1 + 2)}),
        # 2 rows; all-gathers: 2 forward, 2 recomputed, 2 backward a layer; reduce-scatters: 2, 1, 2; 161 norms' gradients
        pytest.param(
            "question_alignment/llama2-70b",
            True,
            {
                "_allgather_base": 2 * (6 * 80 + 2),
                "_reduce_scatter_base": 2 * 5 * 80,
                "allreduce": 2 * (161 + 1 + 1 + 2),
            },
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_70b_step_on_32_ranks_sends_what_was_planned(public_data, tmp_path, capsys, config, sequence, calls):
    paths = paths_of(public_data, tmp_path, config, "llama-2-70b")
    settings = [*paths, f"parallel.sequence_parallel={sequence}".lower()]
    cluster = ["--cluster", "configs/cluster/h100.yaml"]
    assert main(["run", f"configs/{config}.yaml", *settings, "--dry-run", *cluster, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["full_size"]
    assert found["uncovered"] == [] and found["parameters"] == 68_976_648_192
    degree = len(found["ranks"][0]["tensor_group"])
    for rank in found["ranks"]:
        number = rank["rank"]
        assert rank["tensor_group"] == list(range(number // degree * degree, (number // degree + 1) * degree))
        assert rank["data_group"] == list(range(number % degree, 32, degree))
        assert rank["elements"] == found["elements_by_plan"]
    assert found["ranks"][-1]["rank"] == 31 and len(found["ranks"]) == degree + 1
    stage = next(iter(found["stages"].values()))
    assert stage["tensor_collectives"] == calls
    assert stage["tensor_bytes"]["traced"] == pytest.approx(stage["tensor_bytes"]["plan"], rel=1e-4)
    assert not dist.is_initialized()


SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 101,
}


@pytest.fixture
def small(tmp_path):
    LlamaConfig(**SMALL).save_pretrained(tmp_path)
    settings = [f"language_model.path={tmp_path}", "methods=[multilingual_cot]", "parallel.tensor_parallel_size=4"]
    return load_run("configs/quickstart.yaml", settings), ClusterConfig(nodes=2, gpus_per_node=4)


def test_pieces_that_leave_a_gap_or_overlap_are_named(small, monkeypatch):
    assert rehearsal.rehearse(*small)["uncovered"] == []

    def shifted(shape, dimension, rank, size):
        right = even_shard(shape, dimension, rank, size)
        return Shard(shape, dimension, right.begin + (rank == 2), right.size - (rank == 2))

    monkeypatch.setattr(tensor, "even_shard", shifted)
    assert "model.layers.1.self_attn.q_proj.weight" in rehearsal.rehearse(*small)["uncovered"]


def test_it_is_shown_to_a_person(small, capsys):
    rehearsal.show(rehearsal.rehearse(*small))
    said = capsys.readouterr().out
    assert "at full size: tensor 4 x data 2, replicated" in said
    assert "rank 7: tensor group 4, 5, ... 7 (4), data group 3, 7" in said
    assert "every element of the LLM is held once in a tensor group; elements of each rank as planned" in said


def test_a_cluster_without_dry_run_is_refused(capsys):
    assert main(["run", "configs/quickstart.yaml", "--cluster", "configs/cluster/h100.yaml"]) == 2
    assert "--cluster goes with --dry-run" in capsys.readouterr().err
