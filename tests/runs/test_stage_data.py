"""A stage's tokens: the same from one process and from many, continued after a kill, made anew when the data changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from mmscale.cli.main import main
from mmscale.config.run import load_run
from mmscale.data.sources import pieces
from mmscale.errors import UserError
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.world import World
from mmscale.runs.run import stages_of, stages_up_to
from mmscale.runs.stage_data import StageData
from mmscale.runs.token_making import INDEX
from mmscale.storage.parts import PartFolder
from tests.distributed import ranks


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "PIECE_ROWS", 4)
    settings = [
        f"output_dir={tmp_path}/run",
        "methods=[mindmerger]",
        "recipes.mindmerger.mapping.data.0.limit_per_language=10",
        "recipes.mindmerger.mapping.data.0.languages=[sw,de,th]",
        "recipes.mindmerger.mapping.dev_examples=5",
    ]
    return stages_up_to(load_run("configs/quickstart.yaml", settings), "mindmerger.mapping")[-1]


def in_memory(stage):
    train, dev, _ = StageData(stage).records()
    tokenize = StageData(stage).tokenize
    return tokenize(train.records), tokenize(dev.records)


def test_stored_examples_are_those_of_memory(stage):
    data = StageData(stage).tokens(ParallelContext(device=None))
    assert (list(data.train), list(data.dev)) == in_memory(stage)
    assert len(data.train) == 25 and all(e.encoder_ids for e in data.train)
    assert json.loads((stage.folder / "data.json").read_text())[0]["read"] == {"sw": 10, "de": 10, "th": 10}


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "null",
        "[1]",
        '{"pieces": "x", "examples": [30]}',
        '{"pieces": {"train-0": [3, 3, 4]}, "examples": [30]}',
        '{"pieces": {"train-0": [3, 3, 2]}, "examples": [30]}',
        "\0" * 20,
    ],
)
def test_a_damaged_index_or_part_is_made_again(stage, capsys, index):
    folder = StageData(stage).prepare()
    whole = (folder / INDEX).read_text()
    (folder / INDEX).write_text(index)
    data = StageData(stage).tokens(ParallelContext(device=None))
    assert (list(data.train), list(data.dev)) == in_memory(stage) and (folder / INDEX).read_text() == whole
    assert "made again" in capsys.readouterr().err
    part = folder / "train-0-1-00001.safetensors"
    content = part.read_bytes()
    for damaged in (content[:-10], content[:-1] + bytes([content[-1] ^ 1])):
        part.write_bytes(damaged)
        assert list(StageData(stage).tokens(ParallelContext(device=None)).train) == in_memory(stage)[0]
        assert f"{part.name} is damaged" in capsys.readouterr().err.replace("\n", "")
        assert part.read_bytes() == content


def test_parts_there_are_not_made_again_and_each_process_makes_its_own(stage, monkeypatch):
    made, write = [], PartFolder.make

    def watched(self, part, content):
        made.append((part.name, part.number))
        write(self, part, content)

    monkeypatch.setattr(PartFolder, "make", watched)
    stage.run.parallel.__dict__["timeout_minutes"] = 0.01
    with pytest.raises(UserError, match="no other process wrote any tokens for 0.01 minutes"):
        StageData(stage).prepare(World(rank=1, size=2))
    assert made == [("train-0-0", 1), ("train-0-1", 0), ("train-0-1", 2), ("train-0-2", 1)]
    StageData(stage).prepare()
    assert made[4:] == [("train-0-0", 0), ("train-0-0", 2), ("train-0-1", 1), ("train-0-2", 0), ("train-0-2", 2)]
    StageData(stage).prepare()
    assert len(made) == 9
    assert list(StageData(stage).tokens(ParallelContext(device=None)).train) == in_memory(stage)[0]


def test_ranks_that_talk_to_each_other_never_tokenise(stage):
    with pytest.raises(UserError, match="make them with mmscale data tokenize"):
        StageData(stage).tokens(ParallelContext(device=None, size=2))


def test_changed_settings_make_new_tokens_and_remove_the_old(stage):
    first = StageData(stage).prepare()
    stage.config.packing.__dict__["max_target_tokens"] = 4
    second = StageData(stage).prepare()
    assert first != second and not first.exists() and (second / INDEX).is_file()
    assert max(len(e.target_ids) for e in StageData(stage).tokens(ParallelContext(device=None)).train) == 4


def command(folder, *more):
    return ["data", "tokenize", "configs/quickstart.yaml", "mindmerger.mapping", f"output_dir={folder}", *more]


def content(folder):
    return {f.name: f.read_bytes() for f in (folder / "stages" / "mindmerger.mapping" / "tokens").rglob("*.*")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    assert main(command(folder)) == 0
    assert len(content(folder)) > 3
    return folder


def test_processes_and_mpirun_make_the_same_files(alone, tmp_path):
    ranks.run(1, ["-m", "mmscale", *command(tmp_path / "two", "--processes", "2")])
    assert content(tmp_path / "two") == content(alone)
    mpirun = os.path.join(os.path.dirname(sys.executable), "mpirun")
    if not os.path.exists(mpirun):
        pytest.skip("extra mpi")
    line = [mpirun, "-n", "2", sys.executable, "-m", "mmscale", *command(tmp_path / "mpi")]
    done = subprocess.run(line, cwd=ranks.ROOT, env=ranks.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert content(tmp_path / "mpi") == content(alone)
    assert len(done.stdout.splitlines()) == 1, "one rank speaks"


def test_killed_processes_leave_whole_parts_that_count(alone, tmp_path):
    started = ranks.start(1, ["-m", "mmscale", *command(tmp_path)])
    ranks.wait_for(lambda: any(tmp_path.rglob("train-*.safetensors")), started)
    started[0].send_signal(signal.SIGKILL)
    ranks.finish(started)
    stopped = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("train-*.safetensors")}
    assert stopped and not list(tmp_path.rglob(INDEX))
    assert main(command(tmp_path)) == 0
    assert content(tmp_path) == content(alone)
    assert all(f.stat().st_mtime_ns == at for f, at in stopped.items())


def test_an_edited_file_is_read_again(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({"q": f"Swali {i}", "a": f"Jibu {i}"}) + "\n" for i in range(6)))
    data = {"source": "table", "path": str(file), "languages": ["sw"]}
    data["options"] = {"columns": {"question": "q", "rationale": "a"}}
    settings = [
        f"output_dir={tmp_path}/run",
        "methods=[multilingual_cot]",
        f"recipes.multilingual_cot.tuning.data=[{json.dumps(data)}]",
    ]
    stage = stages_of(load_run("configs/quickstart.yaml", settings))[0]
    before = list(StageData(stage).tokens(ParallelContext(device=None)).train)
    file.write_text(file.read_text().replace("Jibu 3", "Jibu 30"))
    after = list(StageData(stage).tokens(ParallelContext(device=None)).train)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False, True, True]


def test_bad_data_ends_all_processes_with_one_sentence(tmp_path, capfd):
    stage = "recipes.mindmerger.mapping.data.0"
    bad = [
        f"{stage}.source=gsmtrans",
        f"{stage}.path=/nowhere",
        f"{stage}.languages=[de]",
        f"{stage}.options={{}}",
        "--processes",
        "2",
    ]
    assert main(command(tmp_path, *bad)) == 2
    err = capfd.readouterr().err
    assert "/nowhere" in err and "Traceback" not in err


def test_each_data_set_of_a_stage_has_its_prompt_and_its_share(tmp_path, capsys):
    """English to X mixed into response alignment, as a stage is configured."""
    both = (
        "[{source: tinyworld, languages: [en], limit_per_language: 30, share: 3, options: {form: problem, seed: 1}}, "
        "{source: tinyworld, languages: [sw, de], limit_per_language: 20, share: 1, prompt: question_translation, "
        "options: {form: translation, seed: 2}}]"
    )
    settings = [
        f"output_dir={tmp_path}/run",
        "methods=[question_alignment]",
        f"recipes.question_alignment.response.data={both}",
        "recipes.question_alignment.response.dev_examples=6",
    ]
    mixed = stages_up_to(load_run("configs/quickstart.yaml", settings), "question_alignment.response")[-1]
    data, accounts = StageData(mixed).in_memory()
    stored = StageData(mixed).tokens(ParallelContext(device=None))
    assert (list(stored.train), list(stored.dev)) == (data.train, data.dev) and stored.mixture == data.mixture
    assert sum(data.mixture.sizes) == 64 and len(accounts) == 2 and data.mixture.shares == (3, 1)
    problems, pairs = data.mixture.per_epoch([1] * 64)
    assert problems == data.mixture.sizes[0] and round(problems / 3) == pairs
    decode = StageData(mixed).tokenize.tokenizer.decode
    assert "Translate the following sentences" not in decode(data.train[0].prompt_ids)
    assert "Translate the following sentences" in decode(data.train[-1].prompt_ids)

    with pytest.raises(
        UserError, match="data.1: give share to every data set|give share to every data set of the stage"
    ):
        load_run("configs/quickstart.yaml", [*settings, "recipes.question_alignment.response.data.1.share=null"])
