"""The wheel holds everything, and works outside the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # from a copy of the tracked files: building leaves build/ and egg-info behind
    files = subprocess.run(
        ["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    for name in files.decode().split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(folder / "source"),
    ]
    subprocess.run(build, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.mark.parametrize(
    "name",
    [
        "mmscale/py.typed",
        "mmscale/configs/quickstart.yaml",
        "mmscale/configs/mindmerger/llama2-7b-mt5-xl.yaml",
        "mmscale/launch/train.py",
        "mmscale_kernels/py.typed",
        "mmscale_kernels/gpu/matmul.py",
        "mmscale_kernels/adapter_choice.json",
        "mmscale/benchmarks/train_step.py",
        "mmscale/tinyworld/lexicon/te.yaml",
        "mmscale/tinyworld/artifacts/llm/model.safetensors",
        "mmscale/tinyworld/artifacts/large_llm/model.safetensors",
        "mmscale/tinyworld/artifacts/encoder/model.safetensors",
        "mmscale/reporting/templates/report.html.j2",
        "mmscale/data/sources/xcopa.py",
    ],
)
def test_the_wheel_holds(unpacked, name):
    assert (unpacked / name).is_file()


def test_no_package_is_called_kernels_configs_or_launch(unpacked):
    assert {path.name for path in unpacked.iterdir() if "dist-info" not in path.name} == {"mmscale", "mmscale_kernels"}


def test_an_installed_mmscale_runs_outside_its_repository(unpacked, tmp_path):
    code = "import mmscale.configs, sys; from mmscale.cli.main import main; print(mmscale.configs.__file__); sys.exit(main(sys.argv[1:]))"
    command = [
        sys.executable,
        "-c",
        code,
        "run",
        "configs/quickstart.yaml",
        "--dry-run",
        "methods=[mindmerger]",
        "recipes.mindmerger.mapping.data.0.limit_per_language=20",
        "recipes.mindmerger.augmentation.data.0.limit_per_language=20",
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(unpacked)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(unpacked)) and "mindmerger.mapping" in done.stdout
