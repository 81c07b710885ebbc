"""Resumed = uninterrupted, bit for bit; a step that went wrong changes nothing; damage is seen and passed over."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from mmscale import registry
from mmscale.config.data import PackingConfig
from mmscale.config.training import OptimizerConfig, StageConfig
from mmscale.data.segments import SpecialTokens, TokenizedExample
from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.storage.files import sha256
from mmscale.training import checkpoint
from mmscale.training.engines.local import LocalEngine
from mmscale.training.fragments import SavedState
from mmscale.training.metrics import Tracker, read_metrics
from mmscale.training.objective import CausalObjective
from mmscale.training.trainer import Trainer, TrainingData
from mmscale.training.training_run import TrainingRun
from tests.conftest import VOCABULARY, random_merged
from tests.flips import flips

STEPS = 20
HERE = ParallelContext(device=torch.device("cpu"))


def make_trainer(
    folder: Path,
    merged: bool = True,
    seed: int = 1,
    fingerprint: str = "same",
    trackers=None,
    joined_by: str = "mlp",
    with_encoder: bool = False,
    **changes,
) -> Trainer:
    settings = {
        "steps": STEPS,
        "save_every_steps": 5,
        "log_every_steps": 1,
        "packing": PackingConfig(row_tokens=64, global_batch_size=6),
    }
    settings |= {"optimizer": OptimizerConfig(learning_rate=1e-2, schedule="cosine", warmup_share=0.1)}
    config = StageConfig(**(settings | changes))
    model = random_merged("llama", "t5" if merged else None, joined_by=joined_by).float()
    model.requires_grad_(False)
    (model.connector if merged else model.language_model).requires_grad_(True)
    if with_encoder:
        model.encoder.requires_grad_(True)
    generator = random.Random(4)

    def example(number: int) -> TokenizedExample:
        ids = [generator.randrange(4, VOCABULARY) for _ in range(generator.randint(6, 20))]
        return TokenizedExample(
            prompt_ids=tuple(ids[:2]),
            target_ids=(*ids[2:], 2),
            encoder_ids=tuple(ids) if merged else (),
            language="sw",
            origin=f"row:{number}",
            prefix_length=model.prefix_length(len(ids)) if merged else 0,
        )

    data = TrainingData([example(i) for i in range(50)], [example(i) for i in range(8)], SpecialTokens(1, 2))
    engine = LocalEngine(CausalObjective(model), config, HERE)
    run = TrainingRun(title="test", folder=folder, config=config, seed=seed, fingerprint=fingerprint, trackers=trackers)
    return Trainer(run, engine, data, HERE)


def weights(path: Path) -> dict[str, torch.Tensor]:
    saved = SavedState(path)
    return {name: saved.parameter(name) for name in saved.shapes}


def same(a: Path, b: Path) -> bool:
    left, right = weights(a), weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def stop_at(trainer: Trainer, step: int) -> None:
    """Run until just before `step`, then stop as Ctrl-C would."""
    original = trainer._rows

    def rows(number):
        if number == step:
            raise KeyboardInterrupt
        return original(number)

    trainer._rows = rows
    with pytest.raises(KeyboardInterrupt):
        trainer.run()


QUERIES = '{"kind": "qformer", "layers": 1, "queries": 3}'


@pytest.mark.parametrize(
    ("merged", "more", "stops"),
    [
        (True, {}, (1, 5, 13)),
        (False, {}, (1, 5, 13)),
        (True, {"with_encoder": True}, (7,)),
        pytest.param(True, {"joined_by": QUERIES}, (7,), marks=pytest.mark.slow),
        pytest.param(True, {"joined_by": "layalign"}, (7,), marks=pytest.mark.slow),
    ],
)
def test_stopped_anywhere_and_resumed_equals_uninterrupted(tmp_path, merged, more, stops):
    straight = make_trainer(tmp_path / "straight", merged, **more).run()
    for stop in stops:
        folder = tmp_path / f"stop-{stop}"
        stop_at(make_trainer(folder, merged, **more), stop)
        resumed = make_trainer(folder, merged, **more).run()
        assert same(straight, resumed), stop
        losses = [
            [(r["step"], r["loss"]) for r in read_metrics(f / "metrics.jsonl") if "loss" in r]
            for f in (folder, tmp_path / "straight")
        ]
        assert losses[0] == losses[1] and len(losses[0]) == STEPS


def test_kill_minus_nine_at_any_moment_changes_no_bit(tmp_path):
    """A real process killed at random moments and started again until it finishes."""
    script = "import sys; sys.path.insert(0, sys.argv[2]); from tests.training.test_resume import make_trainer; from pathlib import Path; make_trainer(Path(sys.argv[1]), steps=60, save_every_steps=3).run()"
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", script, str(tmp_path / "killed"), root]
    generator = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    steps, newest = tmp_path / "killed" / "checkpoints", ""
    for _ in range(3):
        process = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and max((p.name for p in steps.glob("step-*")), default="") <= newest:
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.3))
        assert process.poll() is None, "it must still be running when it is killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = max(p.name for p in steps.glob("step-*"))
    subprocess.run(command, cwd=root, env=environment, check=True, timeout=300, capture_output=True)
    undisturbed = [*command[:3], str(tmp_path / "straight"), root]
    subprocess.run(undisturbed, cwd=root, env=environment, check=True, timeout=300, capture_output=True)
    assert same(tmp_path / "straight" / "checkpoints" / "step-00000060", steps / "step-00000060")


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, capsys):
    straight = make_trainer(tmp_path / "a").run()
    stop_at(make_trainer(tmp_path / "b"), 12)
    newest = checkpoint.step_directory(tmp_path / "b" / "checkpoints", 10)
    blob = bytearray((newest / "state-00000.safetensors").read_bytes())
    blob[len(blob) // 2] ^= 1
    (newest / "state-00000.safetensors").write_bytes(bytes(blob))
    resumed = make_trainer(tmp_path / "b").run()
    assert "state-00000.safetensors is damaged" in capsys.readouterr().err
    assert same(straight, resumed)


SHORT = {"steps": 6, "save_every_steps": 2}


def test_what_lies_beside_checkpoints_is_never_read(tmp_path):
    straight = make_trainer(tmp_path / "a", **SHORT).run()
    stop_at(make_trainer(tmp_path / "b", **SHORT), 5)
    saved = tmp_path / "b" / "checkpoints"
    newest, older = checkpoint.step_directory(saved, 4), checkpoint.step_directory(saved, 2)
    for name in ("step-00000004bak", "step-00000005.old", "step-12", "step-", "step-x"):
        shutil.copytree(older, saved / name)
    for name in ("state-00000 (copy).safetensors", "state-00001.safetensors", "state-.safetensors"):
        shutil.copy(older / "state-00000.safetensors", newest / name)
    assert checkpoint.latest(saved, HERE) == newest
    assert same(straight, make_trainer(tmp_path / "b", **SHORT).run())


ONE = "0" * 64
MANIFESTS = {
    "{}": "lacks the file state.json",
    "null": "is damaged",
    "": "is damaged",
    "[1]": "is damaged",
    '{"state.json": 5}': "is damaged",
    "[" * 99999: "is damaged",
    json.dumps({"state.json": ONE, "state-00000.safetensors": ONE}): "lacks the file random-00000.safetensors",
    json.dumps({"state.json": ONE, "../x": ONE}): "names the unknown file ../x",
}


def test_a_step_without_a_whole_manifest_does_not_count(tmp_path, capsys):
    straight = make_trainer(tmp_path / "a", **SHORT).run()
    stop_at(make_trainer(tmp_path / "b", **SHORT), 5)
    newest = checkpoint.step_directory(tmp_path / "b" / "checkpoints", 4)
    for content, problem in MANIFESTS.items():
        (newest / "manifest.json").write_text(content)
        assert checkpoint.latest(newest.parent, HERE).name == "step-00000002"
        said = capsys.readouterr().err
        assert problem in said.replace("\n", " ") and "going back to the one before" in said.replace("\n", " ")
    assert same(straight, make_trainer(tmp_path / "b", **SHORT).run())


def test_a_checkpoint_that_lacks_a_rank_is_a_fault(tmp_path):
    """A manifest that fits its files, but not the number of ranks that saved them."""
    path = make_trainer(tmp_path, steps=1).run()
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**state, "ranks": 2}))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["state.json"] = sha256(path / "state.json")
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert checkpoint.fault(path, HERE) == "it was saved by 2 ranks, and manifest.json names the files of 1"


def test_every_flipped_bit_of_a_checkpoint_is_a_fault(tmp_path):
    path = make_trainer(tmp_path, steps=1).run()
    for file in sorted(path.iterdir()):
        for where in flips(file, 20):
            assert checkpoint.fault(path, HERE), (file.name, where)
    assert checkpoint.fault(path, HERE) is None


@pytest.mark.parametrize("name", ["state-00000.safetensors", "manifest.json", "state.json"])
def test_a_missing_file_is_a_fault(tmp_path, name):
    path = make_trainer(tmp_path).run()
    assert checkpoint.fault(path, HERE) is None
    (path / name).unlink()
    assert checkpoint.fault(path, HERE) == f"{name} is missing"


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path):
    make_trainer(tmp_path).run()
    with pytest.raises(UserError, match="another configuration of this stage"):
        make_trainer(tmp_path, fingerprint="other").run()


def test_a_non_finite_loss_stops_before_the_optimizer_and_keeps_the_batch(tmp_path):
    trainer = make_trainer(tmp_path)
    original, seen = trainer.engine.objective.loss_sum, []  # type: ignore[attr-defined]

    def poisoned(row):
        seen.append(row)
        loss = original(row)
        return loss * float("nan") if trainer.state.step == 7 else loss

    trainer.engine.objective.loss_sum = poisoned  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"step 8 gave loss nan.*non-finite-step-7.json"):
        trainer.run()
    batch = json.loads((tmp_path / "non-finite-step-7.json").read_text())
    assert batch[0]["token_ids"] == seen[-len(batch)].token_ids.tolist() and batch[0]["origins"][0].startswith("row:")
    assert checkpoint.latest(tmp_path / "checkpoints", HERE).name == "step-00000007"
    assert same(make_trainer(tmp_path / "straight").run(), make_trainer(tmp_path).run()), "mended, it goes on unharmed"


def test_keep_best_hands_on_the_checkpoint_of_least_dev_loss(tmp_path):
    path = make_trainer(
        tmp_path, keep="best", dev_examples=8, evaluate_every_steps=4, optimizer=OptimizerConfig(learning_rate=0.3)
    ).run()
    losses = {row["step"]: row["dev_loss"] for row in read_metrics(tmp_path / "metrics.jsonl") if "dev_loss" in row}
    assert (
        path.name == f"step-{min(losses, key=lambda step: losses[step]):08d}" and checkpoint.fault(path, HERE) is None
    )


def test_accumulated_rows_give_the_gradient_of_one_row(tmp_path):
    """The loss is summed over the step's target tokens and divided by their number, however rows are cut."""
    whole = make_trainer(tmp_path / "a", packing=PackingConfig(row_tokens=4096, global_batch_size=6), steps=5).run()
    parts = make_trainer(tmp_path / "b", packing=PackingConfig(row_tokens=48, global_batch_size=6), steps=5).run()
    for name, value in weights(whole).items():
        assert torch.allclose(value, weights(parts)[name], atol=2e-5), name


def test_embeddings_may_take_their_own_learning_rate(tmp_path):
    """Adam's first step moves every entry by its learning rate (Kingma & Ba 2015, section 2.1)."""
    rates = OptimizerConfig(learning_rate=1e-3, embedding_learning_rate=5e-3)
    trainer = make_trainer(tmp_path, merged=False, steps=1, optimizer=rates)
    before = {name: value.detach().clone() for name, value in trainer.engine._named.items()}  # type: ignore[attr-defined]
    trainer.run()
    for name, value in trainer.engine._named.items():  # type: ignore[attr-defined]
        moved = (value - before[name]).abs().max().item()
        assert moved == pytest.approx(5e-3 if "embed_tokens" in name else 1e-3, rel=0.02), name


def test_ten_examples_can_be_overfitted(tmp_path):
    trainer = make_trainer(
        tmp_path,
        merged=False,
        steps=150,
        optimizer=OptimizerConfig(learning_rate=1e-2),
        packing=PackingConfig(row_tokens=512, global_batch_size=10),
    )
    trainer.data.train[:] = trainer.data.train[:10]
    trainer.order.lengths = trainer.order.lengths[:10]
    trainer.order._cached, trainer.order._counts = None, {}
    trainer.run()
    assert [row for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row][-1]["loss"] < 0.05


def test_bfloat16_trains_close_to_float32(tmp_path):
    exact = make_trainer(tmp_path / "a", steps=10).run()
    rough = make_trainer(tmp_path / "b", steps=10, precision="bfloat16").run()
    del exact, rough
    losses = [[r["loss"] for r in read_metrics(tmp_path / f / "metrics.jsonl") if "loss" in r][-1] for f in "ab"]
    assert abs(losses[0] - losses[1]) < 0.05 * losses[0]


def test_a_full_disk_is_one_sentence_and_the_last_save_survives(tmp_path, monkeypatch):
    trainer = make_trainer(tmp_path)
    saved = checkpoint.save_tensors

    def full(tensors, path):
        if trainer.state.step == 10:
            raise OSError(28, "No space left on device")
        saved(tensors, path)

    monkeypatch.setattr(checkpoint, "save_tensors", full)
    with pytest.raises(UserError, match="cannot write .*step-00000010: No space left on device; free space"):
        trainer.run()
    assert checkpoint.latest(tmp_path / "checkpoints", HERE).name == "step-00000005"


def test_tensorboard_holds_the_same_losses_as_metrics(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    make_trainer(tmp_path).run()
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    shown = [(event.step, pytest.approx(event.value, rel=1e-5)) for event in board.Scalars("loss")]
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row] == shown


class Frail(Tracker):
    """A tracker that loses its network after three steps."""

    told: ClassVar[list[int]] = []

    def __init__(self, run: TrainingRun, from_step: int) -> None:
        if run.seed == 13:
            raise ConnectionError("no route to host\nand more")

    def write(self, step: int, **values: float) -> None:
        if step == 4:
            raise TimeoutError
        self.told.append(step)

    def close(self) -> None:
        raise AssertionError("it was given up")


def test_a_tracker_that_fails_is_given_up_and_training_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(registry.KINDS["trackers"].built_in, "frail", f"{__name__}:Frail")
    make_trainer(tmp_path, trackers=("jsonl", "frail"), steps=6).run()
    assert Frail.told == [1, 2, 3] and not (tmp_path / "tensorboard").exists()
    assert "tracker frail failed (TimeoutError: no reason given)" in capsys.readouterr().err.replace("\n", " ")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row] == list(range(1, 7))
    with pytest.raises(UserError, match=r"tracker frail cannot begin \(ConnectionError: no route to host\): mend that"):
        make_trainer(tmp_path / "other", trackers=("frail",), seed=13).run()
