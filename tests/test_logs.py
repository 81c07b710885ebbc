"""What reaches the terminal and what the log files: lines of a run without a terminal, levels, ranks, other libraries."""

from __future__ import annotations

import logging
import re
import sys
import warnings

import pytest

from mmscale import logs, progress
from mmscale.cli.main import main
from mmscale.errors import UserError
from mmscale.progress import bar, say

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def training(folder, steps: int) -> list[str]:
    return [
        "train", "configs/quickstart.yaml", "multilingual_cot.tuning", f"output_dir={folder}", "languages=[en]",
        "recipes.multilingual_cot.tuning.data.0.languages=[en]",
        "recipes.multilingual_cot.tuning.data.0.limit_per_language=8",
        "recipes.multilingual_cot.tuning.packing={row_tokens: 512, global_batch_size: 4}",
        "recipes.multilingual_cot.tuning.log_every_steps=2", f"recipes.multilingual_cot.tuning.steps={steps}",
    ]  # fmt: skip


def test_a_run_without_a_terminal_tells_its_steps_and_keeps_a_log_that_goes_on(tmp_path, capsys):
    assert main(["--verbose", *training(tmp_path, 4)]) == 0
    told = capsys.readouterr()
    assert re.search(rf"{STAMP} DEBUG rank 0: .*step-0*4: saved", told.err), "a detail"
    line = (
        rf"{STAMP} INFO rank 0: Multilingual CoT: tuning: step (\d) of 4, loss \d+\.\d+, learning rate \d\.\d+e-\d+, "
        r"[\d,]+ tokens/s, ETA \d+:\d\d:\d\d, memory \d+\.\d\d GiB"
    )
    assert re.findall(line, told.err) == ["1", "2", "4"] and "INFO" not in told.out
    file = tmp_path / "logs" / "rank-0.log"
    first = file.read_text(encoding="utf-8")
    assert re.findall(line, first) == ["1", "2", "4"] and re.match(rf"{STAMP} INFO rank 0: mmscale \d", first)
    assert main(training(tmp_path, 5)) == 2
    assert "was made by another configuration" in capsys.readouterr().err
    after = file.read_text(encoding="utf-8")
    assert after.startswith(first) and "ERROR rank 0: " in after and after.count(": mmscale 0") == 2


class Speaker(logging.StreamHandler):
    """As libraries add them when they are imported."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)


@pytest.fixture
def library():
    """The logger of a library that writes to standard output by itself, made after the command began."""
    name = "DeepSpeed.of_a_test"

    def make() -> logging.Logger:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(Speaker())
        return logger

    yield make
    logging.root.manager.loggerDict.pop(name, None)


def test_warnings_of_libraries_go_to_the_file_and_their_errors_to_both(tmp_path, capfd, library):
    with logs.session():
        warnings.warn("told before there is a file", UserWarning, stacklevel=1)
        logs.to_folder(tmp_path)
        logger = library()
        logger.info("chatter")
        logger.warning("advice")
        logging.getLogger("transformers.some_model").warning("more advice")
        logger.error("it failed")
    told = capfd.readouterr()
    assert told.out == "" and re.fullmatch(rf"{STAMP} ERROR rank 0: DeepSpeed.of_a_test: it failed\n", told.err)
    kept = (tmp_path / "logs" / "rank-0.log").read_text(encoding="utf-8")
    for text in (
        "UserWarning: told before there is a file",
        "WARNING rank 0: DeepSpeed.of_a_test: advice",
        "more advice",
        "it failed",
    ):
        assert text in kept
    assert "chatter" not in kept


@pytest.mark.parametrize(
    "options,shown,hidden",
    [
        ({}, ["a sentence", "careful"], ["a detail", "advice"]),
        ({"verbose": True}, ["a sentence", "careful", "a detail", "advice"], []),
        ({"quiet": True}, ["careful"], ["a sentence", "a detail", "advice"]),
    ],
)
def test_verbose_and_quiet_choose_what_the_terminal_shows(options, shown, hidden, tmp_path, capsys):
    with logs.session():
        logs.choose_level(**options)
        logs.to_folder(tmp_path)
        logs.LOGGER.debug("a detail")
        say("a sentence")
        logs.LOGGER.warning("careful")
        logging.getLogger("some_library").warning("advice")
    told, kept = capsys.readouterr().err, (tmp_path / "logs" / "rank-0.log").read_text(encoding="utf-8")
    assert all(text in told for text in shown) and not any(text in told for text in hidden)
    assert all(text in kept for text in (*shown, *hidden)), "the file holds everything"


def test_the_main_command_takes_quiet_and_verbose(tmp_path, capsys):
    assert main(["--quiet", *training(tmp_path, 1)]) == 0
    told = capsys.readouterr()
    assert "rank 0" not in told.err and told.out.strip().endswith("model")
    assert main(["--quiet", "--verbose", "list", "rules"]) == 2
    assert "are opposites" in capsys.readouterr().err


def test_each_rank_has_its_file_and_only_the_first_one_speaks(tmp_path, capsys):
    with logs.session():
        logs.set_rank(3)
        logs.to_folder(tmp_path)
        say("of rank three")
        logs.LOGGER.error("of rank three, and grave")
    assert "INFO rank 3: of rank three" in (tmp_path / "logs" / "rank-3.log").read_text(encoding="utf-8")
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "ERROR rank 3: of rank three, and grave" in told


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "logs").write_text("a file")
    with logs.session(), pytest.raises(UserError, match="rank-0.log"):
        logs.to_folder(tmp_path)


def test_work_without_a_terminal_says_now_and_then_how_far_it_is(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with logs.session(), bar("Answers", 4) as answers:
        for count in range(100):
            now[0] += 2.0
            answers.advance(1 if count == 40 else 0, note=f"sw: {count + 1} of 100 answered")
    assert re.findall(r"rank 0: (.*)", capsys.readouterr().err) == [
        "Answers: 0 of 4 (sw: 30 of 100 answered)",
        "Answers: 1 of 4, ETA 0:06:00 (sw: 60 of 100 answered)",
        "Answers: 1 of 4, ETA 0:09:00 (sw: 90 of 100 answered)",
    ]
