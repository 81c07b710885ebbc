"""What a rank holds while it loads a checkpoint that is cut over ranks: its share, never a layer that is whole."""

from __future__ import annotations

import pytest

from benchmarks.loading_memory import MODES, RANKS, make, ranks


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_rank_that_loads_its_pieces_never_holds_more_than_its_share_and_a_shard(tmp_path, mode):
    """In bfloat16, as it is trained. Half of the model in float32, as tensor parallelism and ZeRO-3 together once loaded,
    would be the whole checkpoint.
    """
    if "ZeRO" in mode:
        pytest.importorskip("deepspeed", reason="extra deepspeed")
    if "tensor" in mode:
        pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    total, shard = make(tmp_path, gigabytes=1.0)
    for rank in ranks(tmp_path, mode):
        assert rank["peak"] <= total / RANKS[mode] + shard, f"{rank['peak'] / total:.2f} of the checkpoint"
