"""Releases of libraries that mmscale does not work with are told in one sentence; .ci/versions runs the oldest and the newest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmscale.cli import main as program
from mmscale.errors import UserError
from mmscale.versions import TRIED, require_known_versions, untried


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str) -> None:
    """Another release of a library, as far as its metadata say."""
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(str(folder))
    require_known_versions.cache_clear()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


def mmscale(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mmscale", *words], capture_output=True, text=True)


def test_a_library_older_than_setup_allows_is_refused(tmp_path, monkeypatch):
    pretend(tmp_path, monkeypatch, "transformers", "4.57.1")
    done = mmscale("generate", "tinyworld:llm", "1 + 1?")
    assert done.returncode == 2
    assert done.stderr == (
        "mmscale: transformers 4.57.1 is installed, mmscale needs transformers>=5.0: pip install 'transformers>=5.0'\n"
    )
    assert mmscale("generate", "--help").returncode == 0


def test_an_extra_is_looked_at_where_it_is_used(tmp_path, monkeypatch):
    pretend(tmp_path, monkeypatch, "deepspeed", "0.9.5")
    require_known_versions()
    with pytest.raises(UserError, match="deepspeed 0.9.5 is installed, mmscale needs deepspeed>=0.17"):
        require_known_versions("deepspeed")


@pytest.mark.parametrize("installed", [*TRIED.items()])
def test_what_is_installed_here_was_tried(installed):
    assert not any(one.startswith(f"{installed[0]} ") for one in untried())


def test_what_fails_under_a_release_nobody_tried_is_told_in_one_sentence(tmp_path, monkeypatch, capsys):
    def fail(**_: object) -> None:
        raise AttributeError("'KeyValueCache' object has no attribute 'update'")

    monkeypatch.setattr(program, "app", fail)
    with pytest.raises(AttributeError):
        program.main(["generate"])
    pretend(tmp_path, monkeypatch, "transformers", "99.1.0")
    assert program.main(["generate"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "transformers 99.1.0 is newer than" in said and "no attribute 'update'" in said
    monkeypatch.setenv("MMSCALE_TRACEBACK", "1")
    with pytest.raises(AttributeError):
        program.main(["generate"])
