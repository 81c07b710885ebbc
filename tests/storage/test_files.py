"""Files are written whole or not at all, and only where a file may stand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmscale.cli.stopping import Stopped
from mmscale.errors import UserError
from mmscale.storage.files import append_lines, require_folder, write_directory, write_json
from mmscale.storage.locks import alone_in


def test_only_a_file_is_replaced(tmp_path):
    """Nor a folder, nor a pipe or device, which a rename would remove; where a folder is a file, that is told."""
    pipe, file = tmp_path / "pipe", tmp_path / "file"
    os.mkfifo(pipe)
    file.write_text("kept")
    for place, said in ((pipe, "no regular file"), (tmp_path, "a folder"), (Path("."), "names no file")):
        with pytest.raises(UserError, match=said):
            write_json(place, {})
    for write in (lambda: write_json(file / "x.json", {}), lambda: require_folder(file)):
        with pytest.raises(UserError, match="cannot write"):
            write()
    assert pipe.is_fifo() and file.read_text() == "kept" and sorted(tmp_path.iterdir()) == [file, pipe]


def test_a_signal_leaves_no_half_of_a_folder(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise Stopped(15)

    with pytest.raises(Stopped):
        write_directory(tmp_path / "model", fill)
    assert not list(tmp_path.iterdir())


def test_a_link_in_a_folder_handed_on_leads_to_no_file_elsewhere(tmp_path):
    """A run directory may come from somebody else: what it links to is neither emptied, appended to nor replaced."""
    mine, run = tmp_path / "mine", tmp_path / "run"
    mine.write_text("mine\n")
    run.mkdir()
    for name in (".in-use", "rows.jsonl", "scores.json"):
        (run / name).symlink_to(mine)
    with pytest.raises(UserError, match="it is a link"), alone_in(run):
        pass
    with pytest.raises(UserError, match="it is a link"):
        append_lines(run / "rows.jsonl", ["{}\n"])
    write_json(run / "scores.json", {})
    assert mine.read_text() == "mine\n" and not (run / "scores.json").is_symlink()
