"""A signal to one rank stops all after the same step, saved; a dead rank ends the others; the run goes on."""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from mmscale.training import checkpoint
from mmscale.training.fragments import SavedState
from tests.distributed import ranks
from tests.distributed.mapping_run import STEPS, command, final, losses, reached, stage

SLOW = pytest.mark.slow


def test_a_signal_to_one_rank_stops_all_and_the_run_goes_on_bit_for_bit(tmp_path, undisturbed):
    started = ranks.start(2, command(tmp_path))
    ranks.wait_for(lambda: reached(tmp_path, 13), started)
    started[1].send_signal(signal.SIGUSR1)
    started[1].send_signal(signal.SIGUSR1)  # Slurm may send it twice
    results = ranks.finish(started)
    assert [code for code, _ in results] == [128 + signal.SIGUSR1] * 2, results
    assert "by signal SIGUSR1; the same command goes on" in results[0][1].replace("\n", " ")
    saved = max(checkpoint.steps(stage(tmp_path) / "checkpoints"))
    assert 13 <= saved < STEPS and saved == losses(tmp_path)[-1][0], "no step beyond the save was lost"
    ranks.run(2, command(tmp_path))
    expected, found = final(undisturbed), final(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses(tmp_path) == losses(undisturbed)


def test_a_time_limit_stops_and_another_number_of_ranks_goes_on(tmp_path, undisturbed):
    results = ranks.finish(ranks.start(2, command(tmp_path, "parallel.interruption.wall_clock_minutes=0.01")))
    assert [code for code, _ in results] == [0, 0], results
    assert "by the time limit" in results[0][1]
    assert checkpoint.steps(stage(tmp_path) / "checkpoints")
    ranks.run(1, command(tmp_path))
    assert len(losses(tmp_path)) == STEPS
    for (_, expected), (_, found) in zip(losses(undisturbed), losses(tmp_path), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)


def until_step(folder: Path, step: int, target: str, layout: tuple[int, int, int], *more: str) -> None:
    """Train under (ZeRO stage, ranks, tensor-parallel degree) and stop by a signal once a step is reached."""
    zero, count, degree = layout
    # no parameter of a model this small would be partitioned at DeepSpeed's default threshold
    settings = [f"parallel.zero.stage={zero}", "parallel.zero.persistence_threshold=0"]
    settings += [f"parallel.tensor_parallel_size={degree}", f"recipes.{target}.optimizer.learning_rate=5e-5"]
    settings += [f"recipes.{target}.optimizer.embedding_learning_rate=1e-4"]  # a group of its own in the optimizer
    started = ranks.start(count, command(folder, *settings, *more, target=target))
    # DeepSpeed compiles its access to NVMe at first use: minutes on a busy machine
    ranks.wait_for(lambda: reached(folder, step, target), started, seconds=1500)
    started[-1].send_signal(signal.SIGTERM)
    codes = ranks.finish(started)
    assert [code for code, _ in codes] == [128 + signal.SIGTERM] * count, codes


@pytest.mark.parametrize(
    ("target", "before", "after"),
    [
        pytest.param("mindmerger.mapping", (3, 2, 1), [(3, 3, 1), (0, 1, 1)], marks=SLOW),
        pytest.param("question_alignment.translation", (3, 4, 2), [(0, 1, 1)], marks=SLOW),
        pytest.param("question_alignment.translation", (3, 4, 2), [(1, 2, 2)], marks=SLOW),
        pytest.param("mindmerger.mapping", (3, 2, 1), [(1, 2, 1), (2, 3, 1)], marks=SLOW),
        pytest.param("mindmerger.mapping", (1, 3, 1), [(3, 2, 1)], marks=SLOW),
        pytest.param("question_alignment.translation", (0, 2, 2), [(0, 1, 1), (3, 4, 2), (2, 2, 1)], marks=SLOW),
    ],
    ids=["ZeRO-3", "tensor x ZeRO-3", "tensor x ZeRO-3 to tensor x ZeRO-1", "ZeRO-3 to 1 and 2", "ZeRO-1", "tensor"],
)
def test_a_checkpoint_goes_on_under_any_layout(tmp_path, target, before, after):
    """The steps after it, from moments and weights alike, are those of the layout that wrote it."""
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    start = tmp_path / "start"
    until_step(start, 8, target, before)
    begin = len(losses(start, target))
    found = {}
    for layout in (before, *after):
        folder = tmp_path / "-".join(map(str, layout))
        shutil.copytree(start, folder)
        until_step(folder, begin + 3, target, layout)
        found[layout] = [loss for _, loss in losses(folder, target)[begin : begin + 3]]
    for layout in after:
        assert found[layout] == pytest.approx(found[before], rel=1e-6), f"{before} to {layout}"


@pytest.mark.parametrize(
    ("layout", "away"),
    [
        ((3, 2, 1), None),
        pytest.param((3, 4, 2), None, marks=SLOW),
        pytest.param((1, 2, 1), None, marks=SLOW),
        pytest.param((2, 2, 1), None, marks=SLOW),
        pytest.param((3, 2, 1), "cpu", marks=SLOW),
        pytest.param((3, 2, 1), "nvme", marks=SLOW),
    ],
    ids=str,
)
def test_bfloat16_under_deepspeed_goes_on_bit_for_bit(tmp_path, layout, away):
    """float32 master weights and moments are what is saved, not the bfloat16 copy that the forward pass reads, wherever
    DeepSpeed keeps them."""
    pytest.importorskip("deepspeed", reason="extra deepspeed")
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    if away == "nvme" and ctypes.util.find_library("aio") is None:
        pytest.skip("DeepSpeed writes to NVMe through libaio")
    target, end = "question_alignment.translation", 11
    stopped, whole = tmp_path / "stopped", tmp_path / "whole"
    more = [f"recipes.{target}.precision=bfloat16"]
    if away:
        place = f"{{device: {away}, nvme_path: {tmp_path}/nvme, pin_memory: false}}"
        more += [f"parallel.zero.offload_{what}={place}" for what in ("optimizer", "parameters")]
    until_step(stopped, 4, target, layout, *more)
    begin = len(losses(stopped, target))
    assert begin < end
    for folder in (stopped, whole):
        until_step(folder, end, target, layout, *more)
    assert losses(stopped, target)[:end] == losses(whole, target)[:end]


def test_a_dead_rank_ends_the_others_with_one_sentence_and_the_run_goes_on(tmp_path, undisturbed):
    started = ranks.start(2, command(tmp_path))
    ranks.wait_for(lambda: reached(tmp_path, 23), started)
    started[1].kill()
    code, told = ranks.finish(started, timeout=60)[0]
    assert code == 2 and "Traceback" not in told and "another rank" in told, told
    ranks.run(2, command(tmp_path))
    expected, found = final(undisturbed), final(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_ranks_write_each_element_once(undisturbed):
    path = checkpoint.step_directory(stage(undisturbed) / "checkpoints", STEPS)
    saved = SavedState(path)
    for places in saved._places.values():
        assert len(places) == 1


def test_killed_during_a_save_the_run_goes_on_from_the_one_before(tmp_path, undisturbed):
    started = ranks.start(2, command(tmp_path))
    ranks.wait_for(lambda: reached(tmp_path, 12), started)
    started[0].send_signal(signal.SIGTERM)
    ranks.finish(started)
    checkpoints = stage(tmp_path) / "checkpoints"
    before = sorted(path.name for path in checkpoints.glob("step-*"))
    started = ranks.start(2, ["tests/distributed/faulty.py", "save", *command(tmp_path)[1:]])
    ranks.wait_for(lambda: any(checkpoints.glob(".step-*.tmp/random-00001.safetensors")), started)
    for rank in started:
        rank.kill()
    ranks.finish(started)
    assert sorted(path.name for path in checkpoints.glob("step-*")) == before, "half a save does not count"
    assert list(checkpoints.glob(".step-*.tmp"))
    ranks.run(2, command(tmp_path))
    expected, found = final(undisturbed), final(tmp_path)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses(tmp_path) == losses(undisturbed)
    assert not list(checkpoints.glob(".*")), "what the killed save left is gone"


def test_a_hanging_rank_ends_all_with_their_stacks(tmp_path):
    limit = "parallel.interruption.hang_minutes=0.1"
    results = ranks.finish(ranks.start(2, ["tests/distributed/faulty.py", "hang", *command(tmp_path, limit)[1:]]))
    assert all(code for code, _ in results)
    for (_, said), place in zip(results, ("in train_step", "in hanging_step"), strict=True):
        assert "Timeout (0:00:06)!" in said and place in said


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, too small for a run."""
    if os.geteuid() != 0:
        pytest.skip("mounting a file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1400k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_the_run_goes_on_with_room(small_disk, undisturbed):
    run = small_disk / "run"
    results = ranks.finish(ranks.start(2, command(run)))
    for code, said in results:
        assert code == 2 and "Traceback" not in said, said[-2000:]
    everything = " ".join(" ".join(said.split()) for _, said in results)
    assert "No space left on device; free space" in everything
    assert checkpoint.steps(stage(run) / "checkpoints"), "what was saved before stays"
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    ranks.run(2, command(run))
    expected, found = final(undisturbed), final(run)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
