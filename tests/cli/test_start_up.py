"""Verbs that look at files and configurations start without torch, which takes seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mmscale.config.connector_settings import SETTINGS
from mmscale.models.connectors import connector
from mmscale.registry import kind_of

CODE = """
import contextlib, io, json, sys
from mmscale.cli.main import main

def exit_code(arguments):
    try:
        return main(arguments)
    except SystemExit as leaving:
        return leaving.code

for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()):
        code = exit_code(arguments)
    heavy = {"torch", "transformers", "scipy"} & set(sys.modules)
    assert not code and not heavy, (arguments, code, heavy)
"""


def test_no_torch_where_none_is_needed(tmp_path):
    answers, stage = tmp_path / "answers.jsonl", tmp_path / "run" / "stages" / "mapping"
    answers.write_text(json.dumps({"question": "1 + 1", "response": "It is 2", "answer": "2"}) + "\n")
    stage.mkdir(parents=True)
    (stage / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    quickstart = str(Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml")
    verbs = [
        ["evaluate", "--predictions", str(answers), "--rule", "last_number", "--json"],
        ["evaluate", "--consistency", f"de={answers}", "--consistency", f"fr={answers}", "--rule", "last_number"],
        ["data", "stats", "tinyworld", "--languages", "sw", "--limit", "5", "--json"],
        ["data", "overlap", "--train", "tinyworld=", "--test", "tinyworld=", "--languages", "en", "--help"],
        ["report", str(tmp_path / "run")],
        ["list"],
        ["list", "methods"],
        ["config", "show", quickstart],
        ["config", "schema"],
        ["config", "docs"],
        ["plan", "--help"],
    ]
    command = [sys.executable, "-c", CODE, json.dumps(verbs)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_that_are_known_without_torch_are_those_of_the_connectors():
    kinds = {name: type(connector(name).usual) for name in kind_of("connectors").built_in}
    assert {name: settings for name, settings in kinds.items() if settings.model_fields} == SETTINGS
