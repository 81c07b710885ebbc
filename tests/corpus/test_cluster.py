"""A corpus's tasks on a real Slurm controller of three nodes, one of which loses power, and on a real Ray of two workers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mmscale.cli.main import main
from mmscale.corpus.rows import read_rows
from mmscale.parallel import slurm
from tests.distributed import ranks
from tests.distributed.virtual_cluster import needs_slurm, script, virtual_cluster
from tests.translation.tiny import nllb

pytestmark = pytest.mark.slow
ROWS, SHARD = 240, 20


@pytest.fixture(scope="module")
def configuration(tmp_path_factory):
    """A corpus of 12 shards that is translated into Swahili and Korean by a random NLLB."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "nllb").mkdir()
    nllb(folder / "nllb", "swh_Latn", "kor_Hang", "eng_Latn")
    rows = [{"question": f"Tom has {n} eggs. How many are {n} and 2?", "rationale": f"{n} and 2 is {n + 2}.", "answer": str(n + 2)} for n in range(ROWS)]  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {name: name for name in ("question", "rationale", "answer")}
    values = {
        "output_dir": str(folder / "alone"),
        "languages": ["sw", "ko"],
        "sources": [{"name": "eggs", "source": "table", "path": str(folder / "rows.jsonl"), "options": {"columns": columns}}],
        "translate": {"backend": "transformers", "model": str(folder / "nllb"), "max_new_tokens": 24, "max_source_tokens": 60},
        "shard_rows": SHARD,
    }  # fmt: skip
    file = folder / "corpus.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert main(["corpus", "translate", str(file)]) == 0
    return file


def translated(folder: Path) -> dict[str, list]:
    return {str(file.relative_to(folder)): list(read_rows(file)) for file in sorted(folder.glob("rows/eggs/*/*.gz"))}


def command(file: Path, output: Path, *more: str) -> list[str]:
    settings = [f"output_dir={output}", "tasks=6"]
    return [sys.executable, "-m", "mmscale", "corpus", "translate", str(file), *settings, *more]


def require_each_row_once(file: Path, output: Path) -> None:
    expected, found = translated(file.parent / "alone"), translated(output)
    assert found == expected and len(found) == 3 * ROWS / SHARD
    ids = [row.id for rows in found.values() for row in rows]
    assert len(set(ids)) == len(ids) == 3 * ROWS


@needs_slurm
def test_three_nodes_share_a_corpus_and_one_loses_power(configuration, tmp_path):
    with virtual_cluster(3):
        described = {
            "nodes": 3,
            "gpus_per_node": 0,
            "ranks_per_node": 1,
            "cpus_per_rank": 1,
            "time": "20",
            "partition": "main",
        }
        environment = {**ranks.QUIET, "OMP_NUM_THREADS": "1"}
        cluster = tmp_path / "cluster.yaml"
        cluster.write_text(yaml.safe_dump({**described, "python": sys.executable, "environment": environment}))
        output = tmp_path / "shared"
        started = subprocess.Popen(
            command(configuration, output, "--cluster", str(cluster)),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        end = time.monotonic() + 300
        while len(list(output.glob("rows/eggs/[sk]*/*.gz"))) < 3:
            assert started.poll() is None and time.monotonic() < end
            time.sleep(0.1)
        started.kill()  # the command is not needed for the jobs to go on
        script("slurm-node.sh", "crash", "n2")
        job = json.loads(next(output.glob("work/datatrove/CorpusTranslation/job.json")).read_text())["job"]
        script("slurm-node.sh", "start", "n2")
        again = subprocess.run(
            command(configuration, output, "--cluster", str(cluster)), capture_output=True, text=True, timeout=600
        )
        assert again.returncode == 0, again.stderr
        assert f"job {job} does this already" in again.stderr.replace("\n", " ")
        assert slurm.state(job) == "COMPLETED"
    require_each_row_once(configuration, output)


def ray(*arguments: str) -> None:
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    tool = str(Path(sys.executable).with_name("ray"))
    subprocess.run([tool, *arguments], env=environment, check=True, capture_output=True, timeout=120)


def test_two_ray_workers_share_a_corpus(configuration, tmp_path):
    pytest.importorskip("ray", reason="extra ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = ("--num-cpus=1", "--node-ip-address=127.0.0.1", "--disable-usage-stats")
    ray("start", "--head", f"--port={port}", "--include-dashboard=false", *worker)
    try:
        ray("start", f"--address=127.0.0.1:{port}", *worker)
        done = subprocess.run(
            command(configuration, tmp_path / "shared", "--ray", f"127.0.0.1:{port}"),
            capture_output=True,
            text=True,
            timeout=600,
        )
    finally:
        ray("stop", "--force")
    assert done.returncode == 0, done.stderr
    require_each_row_once(configuration, tmp_path / "shared")


def test_where_no_ray_answers_is_one_sentence(configuration, tmp_path, capsys):
    arguments = command(configuration, tmp_path / "shared", "--ray", "127.0.0.1:1")
    assert main(arguments[3:]) == 2
    assert "no Ray cluster answers at 127.0.0.1:1: start one by `ray start --head`" in capsys.readouterr().err.replace(
        "\n", " "
    )
