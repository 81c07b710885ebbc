"""The shipped batch script on a real Slurm controller with two nodes: runs, is signalled, preempted, loses a node, goes on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from mmscale.cli.main import main
from mmscale.parallel import slurm
from mmscale.parallel.extensions import build_folder
from mmscale.training import checkpoint
from tests.distributed import ranks
from tests.distributed.mapping_run import MAPPING, STEPS, command, final, losses, reached, stage
from tests.distributed.virtual_cluster import needs_slurm, script, virtual_cluster
from tests.runs.test_programs_run import CONFIG as PROGRAMS
from tests.runs.test_programs_run import SMALL

pytestmark = needs_slurm


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    with virtual_cluster(2, lambda folder: share_builds(folder / "extensions")) as folder:
        yield folder


def share_builds(root: Path) -> None:
    """What DeepSpeed compiles on each node: all of them are this machine."""
    ours = build_folder()
    ours.mkdir(parents=True, exist_ok=True)
    root.mkdir()
    for node in ("n1", "n2"):
        (root / ours.name.replace(platform.node(), node, 1)).symlink_to(ours)


def describe(folder: Path, minutes: int = 20, **more: object) -> Path:
    """A cluster file: two nodes, one rank each."""
    values = {
        "nodes": 2,
        "gpus_per_node": 0,
        "ranks_per_node": 1,
        "cpus_per_rank": 1,
        "time": str(minutes),
        "partition": "main",
        "signal_seconds": 30,
        "python": sys.executable,
        "environment": {
            **ranks.QUIET,
            "GREETING": "it's; $HOME",
            "TORCH_EXTENSIONS_DIR": str(Path(os.environ["SL_DIR"]) / "extensions"),
        },
        **more,
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def submit(folder: Path, capsys: pytest.CaptureFixture[str], *more: str, minutes: int = 20, **described: object) -> str:
    """The job number of `mmscale launch … --submit`."""
    _, config, target, *overrides = command(folder)
    cluster = ["--cluster", str(describe(folder, minutes, **described))]
    assert main(["launch", config, target, *overrides, *more, *cluster, "--submit"]) == 0
    return capsys.readouterr().out.strip()


def wait(condition: Callable[[], bool], folder: Path, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not condition():
        log = folder / "slurm" / "mindmerger.mapping.log"
        assert time.monotonic() < end, log.read_text() if log.is_file() else "the job never wrote its log"
        time.sleep(0.2)


def require_undisturbed(folder: Path, undisturbed: Path, job: str) -> None:
    wait(lambda: slurm.state(job) in slurm.FINAL_STATES, folder)
    log = (folder / "slurm" / "mindmerger.mapping.log").read_text()
    assert slurm.state(job) == "COMPLETED", log
    expected, found = final(undisturbed), final(folder)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert losses(folder) == losses(undisturbed)


def test_two_nodes_train_as_two_ranks_and_a_signal_is_survived(cluster, undisturbed, tmp_path, capsys):
    job = submit(tmp_path, capsys)
    wait(lambda: reached(tmp_path, 12), tmp_path)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    wait(lambda: "back into the queue" in (tmp_path / "slurm" / "mindmerger.mapping.log").read_text(), tmp_path)
    saved = max(checkpoint.steps(stage(tmp_path) / "checkpoints"))
    assert 12 <= saved < STEPS and losses(tmp_path)[-1][0] == saved
    require_undisturbed(tmp_path, undisturbed, job)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "launcher", [pytest.param("srun", marks=SLOW), pytest.param("torchrun", marks=SLOW), "deepspeed"]
)
def test_zero_3_over_two_nodes_under_every_launcher(cluster, undisturbed, tmp_path, capsys, launcher):
    """A signal in between is for the ranks: the launcher on the node leaves it to them."""
    zero = ["parallel.zero.stage=3", "parallel.zero.persistence_threshold=0"]
    job = submit(tmp_path, capsys, *zero, launcher=launcher)
    wait(lambda: reached(tmp_path, 12), tmp_path)
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    log = tmp_path / "slurm" / "mindmerger.mapping.log"
    wait(lambda: "back into the queue" in log.read_text(), tmp_path)
    wait(lambda: slurm.state(job) in slurm.FINAL_STATES, tmp_path)
    assert slurm.state(job) == "COMPLETED", log.read_text()
    assert dict(losses(tmp_path)) == pytest.approx(dict(losses(undisturbed)), abs=1e-4)


@pytest.mark.slow
def test_preempted_by_a_higher_partition(cluster, undisturbed, tmp_path, capsys):
    job = submit(tmp_path, capsys)
    wait(lambda: reached(tmp_path, 12), tmp_path)
    subprocess.run(
        ["sbatch", "-p", "urgent", "-N", "2", "-n", "4", "--wrap", "sleep 2", "-o", "/dev/null"],
        check=True,
        capture_output=True,
    )
    require_undisturbed(tmp_path, undisturbed, job)
    assert "SIGUSR1" in (tmp_path / "slurm" / "mindmerger.mapping.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_node_loses_power(cluster, undisturbed, tmp_path, capsys, node):
    """n1 runs the batch script itself."""
    job = submit(tmp_path, capsys)
    wait(lambda: reached(tmp_path, 23), tmp_path)
    script("slurm-node.sh", "crash", node)
    wait(lambda: slurm.state(job) == "PENDING", tmp_path)
    script("slurm-node.sh", "start", node)
    require_undisturbed(tmp_path, undisturbed, job)


@pytest.mark.slow
def test_a_job_ends_before_its_time_does_and_goes_on_in_the_next(cluster, tmp_path, capsys):
    """A stage of more than a minute in jobs of two: no signal is waited for, the job's own end is known."""
    settings = [
        f"recipes.{MAPPING}.steps=9000",
        "parallel.interruption.minutes_before_job_end=1.5",
    ]  # Slurm signals at 60 to 90 s
    job = submit(tmp_path, capsys, *settings, minutes=2)
    log = tmp_path / "slurm" / "mindmerger.mapping.log"
    wait(lambda: log.is_file() and log.read_text().count("going back into the queue") >= 1, tmp_path)
    assert "by the time limit" in log.read_text()
    wait(lambda: "going on after step" in log.read_text(), tmp_path)
    subprocess.run(["scancel", job], check=True)
    wait(lambda: slurm.state(job) == "CANCELLED", tmp_path)


def test_a_cancelled_job_saves_and_stays_cancelled(cluster, tmp_path, capsys):
    """Slurm ends it with SIGTERM, which alone would put it back into the queue."""
    job = submit(tmp_path, capsys, f"recipes.{MAPPING}.steps=9000")
    wait(lambda: reached(tmp_path, 12), tmp_path)
    subprocess.run(["scancel", job], check=True)
    wait(lambda: slurm.state(job) == "CANCELLED", tmp_path)
    time.sleep(8)  # a requeued job would wait 6 s, and run again
    assert slurm.state(job) == "CANCELLED"
    log = " ".join((tmp_path / "slurm" / "mindmerger.mapping.log").read_text().split())
    assert "by signal SIGTERM" in log and "back into the queue, since it is" in log
    assert max(checkpoint.steps(stage(tmp_path) / "checkpoints")) == losses(tmp_path)[-1][0]


def watch(folder: Path, *words: str) -> int:
    """`mmscale launch … --watch` of MindMerger's stages, four steps each."""
    _, config, _, *settings = command(folder)
    settings += [f"recipes.mindmerger.{name}.steps=4" for name in ("mapping", "augmentation")]
    task = "evaluation.tasks.tinyworld"
    settings += ["methods=[mindmerger]", f"{task}.data.limit_per_language=4", f"{task}.generation.max_new_tokens=8"]
    cluster = describe(folder, launcher="torchrun", memory="1500M")
    return main(["launch", config, *settings, *words, "--cluster", str(cluster), "--watch"])


def test_a_whole_run_is_watched_stage_by_stage_to_its_report(cluster, tmp_path, capsys):
    assert watch(tmp_path) == 0
    said = capsys.readouterr().err
    ends = ["MindMerger: mapping: completed", "MindMerger: augmentation: completed"]
    ends += ["Answers: completed", "Scores and report: completed"]
    assert sorted(ends, key=said.index) == ends
    assert (tmp_path / "report.html").is_file()
    asked = (tmp_path / "slurm" / "evaluation.sbatch").read_text().splitlines()
    assert {"#SBATCH --nodes=1", "#SBATCH --ntasks=1", "#SBATCH --cpus-per-task=1", "#SBATCH --time=00:30:00"} <= set(
        asked
    )
    assert "#SBATCH --array=0-1" in (tmp_path / "slurm" / "answers.sbatch").read_text()
    logs = [(tmp_path / "slurm" / f"answers-{element}.log").read_text() for element in (0, 1)]
    assert ["Base: tinyworld" in log for log in logs] == [True, False], "an element of the array for each model"
    assert ["MindMerger: tinyworld" in log for log in logs] == [False, True]
    assert (tmp_path / "predictions" / "mindmerger" / "tinyworld" / "sw.jsonl").read_text().count("\n") == 4


def test_a_failed_stage_ends_the_watch_and_the_chain(cluster, tmp_path, capsys):
    assert watch(tmp_path, "mindmerger", "recipes.mindmerger.mapping.packing.row_tokens=16") == 1
    assert "MindMerger: mapping: failed" in capsys.readouterr().err
    log = (tmp_path / "slurm" / "mindmerger.mapping.log").read_text().replace("\n", " ")
    assert "packing.row_tokens is 16: raise it above that" in log
    wait(lambda: "JobState=CANCELLED" in jobs_called("mindmerger.augmentation"), tmp_path)


TRANSLATION, PROBLEM = "translation", "problem"
SHIPPED = {
    "question_alignment/llama2-7b": ({"translation": TRANSLATION, "response": PROBLEM}, "torchrun"),
    "mindmerger/llama2-7b-mt5-xl": ({"mapping": TRANSLATION, "augmentation": PROBLEM}, "srun"),
    "multilingual_cot/llama2-7b": ({"tuning": PROBLEM}, "deepspeed"),
    "proxy_tuning/llama2-70b-by-7b": ({"translation": TRANSLATION, "response": PROBLEM}, "srun"),
}
"""Published configurations, what their stages read, and the launcher each is tried with."""


def tiny(method: str, stages: dict[str, str]) -> list[str]:
    """A published configuration with tinyworld's models and a few of its problems; all else as it is."""
    task = {"source": "tinyworld", "split": "test", "limit_per_language": 4}
    settings: dict[str, object] = {
        "language_model.path": "tinyworld:llm",
        "languages": ["en", "sw"],
        "threads": 1,
        "evaluation.tasks": {"tinyworld": {"data": task, "generation": {"max_new_tokens": 8, "batch_size": 4}}},
    }
    for name, form in stages.items():
        data = {"source": "tinyworld", "languages": ["sw"], "limit_per_language": 40, "options": {"form": form}}
        recipe = "question_alignment" if method == "proxy_tuning" else method
        settings |= {f"recipes.{recipe}.{name}.data": [data], f"recipes.{recipe}.{name}.dev_examples": 4}
    if method == "mindmerger":
        settings["encoder.path"] = "tinyworld:encoder"
    if method == "proxy_tuning":  # a model of eight key heads is not at hand
        settings |= {"proxy.base.path": "tinyworld:large_llm", "parallel.tensor_parallel_size": 2}
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]


@SLOW
@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_configuration_of_every_method_runs_through_its_batch_scripts(cluster, tmp_path, name):
    stages, launcher = SHIPPED[name]
    words = [f"configs/{name}.yaml", f"output_dir={tmp_path}", *tiny(name.split("/")[0], stages)]
    described = describe(tmp_path, launcher=launcher, cpus_per_rank=1, ranks_per_node=1, memory="1500M")
    assert main(["launch", *words, "--cluster", str(described), "--watch"]) == 0, (tmp_path / "slurm").iterdir()
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert (tmp_path / "report.html").is_file()
    assert all(entry["tasks"]["tinyworld"]["languages"]["sw"]["n"] == 4 for entry in scores.values())


def jobs_called(name: str) -> str:
    done = subprocess.run(["scontrol", "show", "jobs", "-o"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if f"{name} " in line][-1]


@pytest.mark.slow
def test_programs_of_answers_run_on_the_nodes_and_are_shared(cluster, tmp_path):
    """A run by srun alone: two tasks, one on each node, each with sandboxes of its own."""
    program, folder = str(Path(sys.executable).parent / "mmscale"), tmp_path / "run"
    srun = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1"]
    command = [*srun, program, "run", PROGRAMS, f"output_dir={folder}", *SMALL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env={**os.environ, **ranks.QUIET})
    assert done.returncode == 0, done.stderr
    scores = json.loads((folder / "scores.json").read_text())["question_alignment"]["tasks"]["tinyworld"]
    rows = [json.loads(line) for line in (folder / "predictions/question_alignment/tinyworld/sw.jsonl").open()]
    assert scores["rule"] == "program" and scores["languages"]["sw"]["n"] == len(rows) == 4
    assert sum(scores["languages"]["sw"]["failures"].values()) == sum(not row["prediction"] for row in rows)
    assert all(row["rule"] == "program" for row in rows)
