"""Bad input: one sentence on standard error, exit code 2, never a traceback."""

from __future__ import annotations

import fcntl
import io
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time

import psutil
import pytest

from mmscale.cli.main import main

QUICK = "configs/quickstart.yaml"
NO_METHODS = f"{QUICK} methods=[mindmerger] --dry-run"
TUNED = f"{QUICK} methods=[multilingual_cot] proxy=null --dry-run"


@pytest.mark.parametrize(
    "command,message",
    [
        (f"{NO_METHODS} recipes.mindmerger.mapping.stps=3", "unknown key 'stps': did you mean 'steps'?"),
        (f"{NO_METHODS} evaluaton.base=false", "unknown key 'evaluaton': did you mean 'evaluation'?"),
        (f"{NO_METHODS} recipes.mindmerger.mapping.optimizer.learning_rat=1", "did you mean 'learning_rate'?"),
        (f"{NO_METHODS} seed=abc", "seed: input should be a valid integer"),
        (f"{NO_METHODS} languages=[xx]", "unknown language code 'xx'"),
        (f"{QUICK} methods=[mindmerge] --dry-run", "unknown method 'mindmerge': did you mean 'mindmerger'?"),
        (
            f"{NO_METHODS} recipes.mindmerger.maping.steps=3",
            "unknown stage of mindmerger 'maping': did you mean 'mapping'?",
        ),
        (
            f"{NO_METHODS} evaluation.tasks.tinyworld.rule=lastnumber",
            "unknown rule 'lastnumber': did you mean 'last_number'?",
        ),
        (f"{NO_METHODS} encoder=null", "mindmerger needs an encoder"),
        (f"{NO_METHODS} seed", "'seed' is not key=value"),
        (
            f"{NO_METHODS} recipes.mindmerger.mapping.packing.global_batch_tokens=64",
            "give exactly one of global_batch_size",
        ),
        (f"{NO_METHODS} proxy.alpha=.inf", "proxy.alpha: input should be a finite number"),
        ("configs/quikstart.yaml", "did you mean configs/quickstart.yaml?"),
        (f"{TUNED} language_model.dtype=bfloat16", "bfloat16 weights without float32 copies lose small updates"),
        (f"{TUNED} language_model.dtype=float16 parallel.zero.stage=3", "float16 loses small gradients"),
        (
            f"{QUICK} methods=[question_alignment] --dry-run proxy.ceiling=true proxy.base.dtype=bfloat16",
            "small updates",
        ),
    ],
)
def test_run(command, message, capsys):
    assert main(["run", *command.split()]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["evaluate"], "nothing to evaluate"),
        (["evaluate", "--predictions", "/nowhere.jsonl"], "not found: /nowhere.jsonl"),
        (["evaluate", "--consistency", "de"], "'de' is not LANG=FILE"),
        (["generate", "/no/such/model", "hi"], "model folder not found: /no/such/model"),
        (["generate", "tinyworld:nothing", "hi"], "there is no embedded model 'tinyworld:nothing'"),
        (["generate", "tinyworld:llm", "hi", "--language", "zz"], "unknown language code 'zz'"),
        (["generate", "tinyworld:llm", "hi", "--expert", "x"], "needs both --expert and --antiexpert"),
        (["generate", "tinyworld:llm", "hi", "--prompt", "alpacca"], "did you mean 'alpaca'?"),
        (
            ["generate", "tinyworld:llm", "hi", "--temperature", "-1"],
            "temperature: input should be greater than or equal to 0",
        ),
        (["generate", "tinyworld:llm", "hi", "--max-new-tokens", "5000"], "exceed the context of"),
        (["report", "/nowhere"], "/nowhere holds neither scores.json nor stages"),
        (["convert", "/nowhere.bin", "x.safetensors"], "mapping checkpoint not found"),
        (["data", "stats", "mgms"], "did you mean 'mgsm'?"),
        (["data", "preview", QUICK, "mindmerger.map"], "did you mean 'mindmerger.mapping'?"),
        (["train", QUICK, "mindmerger.map"], "did you mean 'mindmerger.mapping'?"),
        (["tinyworld", "lm"], "did you mean 'llm'?"),
        (["run"], "Missing argument"),
        (["run", QUICK, "--no-such-option"], "No such option"),
    ],
)
def test_other_verbs(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_weights_in_bfloat16_are_trained_where_float32_copies_move_them(capsys):
    """ZeRO keeps them; a mapping is float32 whatever the LLM in front of it is."""
    few = "recipes.multilingual_cot.tuning.data.0.limit_per_language=2"
    partitioned = f"{TUNED} {few} parallel.zero.stage=2 language_model.dtype=bfloat16 evaluation.tasks={{}}"
    assert main(["run", *partitioned.split()]) == 0, capsys.readouterr().err
    few = "recipes.mindmerger.mapping.data.0.limit_per_language=2 recipes.mindmerger.augmentation.data.0.limit_per_language=2"
    frozen = f"{NO_METHODS} {few} proxy=null language_model.dtype=bfloat16 evaluation.tasks={{}}"
    assert main(["run", *frozen.split()]) == 0, capsys.readouterr().err


def test_a_yaml_mistake_names_file_and_line(tmp_path, capsys):
    file = tmp_path / "bad.yaml"
    file.write_text("name: x\nlanguage_model: {path: y\nseed: 1\n")
    assert main(["run", str(file)]) == 2
    assert f"{file}:3" in capsys.readouterr().err


def test_a_prediction_row_without_response_is_named(tmp_path, capsys):
    file = tmp_path / "p.jsonl"
    file.write_text('{"question": "q", "response": "1", "answer": "1"}\n{"question": "q", "answer": "1"}\n')
    assert main(["evaluate", "--predictions", str(file)]) == 2
    assert f"{file}:2: the row has no response" in capsys.readouterr().err


def test_a_damaged_model_is_one_sentence(tmp_path, capsys):
    (tmp_path / "config.json").write_text("{")
    assert main(["generate", str(tmp_path), "hi"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mmscale: {tmp_path}/config.json is not valid JSON")


def test_questions_that_are_no_utf8_are_one_sentence(capsys, monkeypatch):
    assert main(["generate", "tinyworld:llm", "a\udcff", "--max-new-tokens", "2"]) == 2
    assert "on the command line, 'a\\udcff' is not UTF-8" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\xff\n"), encoding="utf-8"))
    assert main(["generate", "tinyworld:llm", "--max-new-tokens", "2"]) == 2
    assert "standard input is not UTF-8" in capsys.readouterr().err


def test_help_does_not_import_torch():
    code = "import sys; from mmscale.cli.main import main; main(['--help']); main(['run', '--help']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith("False") and "Example" in out


def test_doctor_prints_one_json_object(capsys):
    assert main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["attention"] == "mmscale_packed_sdpa"


def test_a_dry_run_fails_on_mistakes_and_not_on_what_is_not_here_yet(tmp_path, capsys):
    """Files that are merely absent are named; a wrong prompt, rule or row of a file that is there is exit code 2."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "Two and two?", "answer": "#### 4"}\n' * 3, encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: dry\nlanguages: [en]\nmethods: []\nlanguage_model: {path: 'tinyworld:llm'}\n"
        f"evaluation: {{tasks: {{t: {{data: {{source: gsm8k, path: {rows}, languages: [en]}}, prompt: alpaca, generation: {{max_new_tokens: 16}}}}}}}}\n",
        encoding="utf-8",
    )
    dry = ["run", str(config), "--dry-run", "--json"]
    path = "evaluation.tasks.t.data.path"
    assert main(dry) == 0
    assert json.loads(capsys.readouterr().out)["tasks"]["t"]["problems"] == {"en": 3}
    assert main([*dry, f"{path}={tmp_path}/absent.jsonl", "language_model.path=/absent/model"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "absent.jsonl" in found["tasks"]["t"]["missing"] and "/absent/model" in found["parameters"]["language_model"]
    for mistake, said in (
        ("evaluation.tasks.t.prompt=xcsqa", "reads multiple-choice questions"),
        ("evaluation.tasks.t.prompt=alpac", "did you mean 'alpaca'"),
        ("evaluation.tasks.t.rule=exakt", "did you mean 'exact'"),
        (f"{path}={tmp_path}", "no file for language 'en'"),
        (f"output_dir={rows}/run", f"{rows} is no folder that can be written into"),
        ("evaluation.tasks.t.generation.max_new_tokens=5000", "5000 new tokens exceed the context of"),
        ("language_model.path=tinyworld:absent", "there is no embedded model"),
    ):
        assert main([*dry, mistake]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evaluate", "tinyworld:llm", "--source", "tiny\0world"], "holds a NUL byte"),
        (["generate", "tinyworld:llm", "Hi", "--stop", "\udcff"], "is not UTF-8"),
        (["generate", "tinyworld:llm", "Hi", "--output", "."], "names no file"),
        (
            ["generate", "tinyworld:llm", "Hi", "--proxy", "", ""],
            "an empty word stands on the command line behind --proxy",
        ),
        (["generate", "tinyworld:llm", "Hi", "--proxy", "tinyworld:llm", ""], "an empty word"),
        (["generate", "tinyworld:llm", "Hi", "--prompt", ""], "behind --prompt"),
        (["generate", "tinyworld:llm", "Hi", "--stop", ""], "command line: stop.0: string should have at least 1"),
        (["generate", "tinyworld:llm", "Hi", "--repetition-penalty", "1e-300"], "repetition_penalty"),
        (["generate", "tinyworld:llm", "Hi", "--tensor-parallel-size", str(10**30)], "tensor_parallel_size"),
        (["generate", "tinyworld:llm", "Hi", "--seed", str(10**30)], "seed"),
        (["generate", "tinyworld:llm", "Hi", "--temperature", "1e-9"], "at least 0.0001"),
        (["evaluate", "tinyworld:llm", "--limit", "0"], "limit_per_language"),
        (["evaluate", "--predictions", "x.jsonl", "--limit", "3"], "--limit is of no use with --predictions"),
        (["evaluate", "--consistency", "de=x.jsonl", "--language", "de"], "--language is of no use with --consistency"),
        (["evaluate", "tinyworld:llm", "--language", "de"], "--language is of no use with a model"),
        (["evaluate", "tinyworld:llm", "--languages", ","], "names no language"),
        (["generate", "tinyworld:llm", "Hi", "--alpha", "2"], "--alpha is for proxy-tuning"),
        (["generate", "tinyworld:llm", "Hi", "--draft-tokens", "2"], "--draft-tokens is for proxy-tuning"),
        (["plan", "configs/quickstart.yaml", "--example-tokens", "0"], "--example-tokens"),
        (["run", "configs/quickstart.yaml", "--dry-run", "--model", "base"], "leave out --model"),
        (["serve", "tinyworld:llm", "--port", "0", "--slots", "60000"], "GB there are: lower --slots"),
        (["evaluate", "--predictions", "/proc/self/mem"], "cannot read /proc/self/mem"),
        (["data", "preview", QUICK, "mindmerger.mapping", "--rows", "0"], "--rows"),
        (["data", "stats", "tinyworld", "somewhere"], "leave its path out"),
        (["data", "stats", "tinyworld", "--split", "tset"], "split must be train or test, not tset"),
        (["data", "stats", "tinyworld", "--languages", "en", "--limit", "3", "--png", "."], "names no file"),
        (["data", "tokenize", QUICK, "--processes", str(10**30)], "--processes"),
        (["convert", "x", "y.bin", "--dtype", "float16"], "--dtype is of no use with a mapping"),
        (["convert", "x", "y", "--whole", "--base", "z"], "--base is of no use with --whole"),
        (["bench", "train-step", "--output", "/proc/nowhere"], "cannot write /proc/nowhere"),
    ],
)
def test_every_flag_is_looked_at(capsys, words, said):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def _waits_in(pipe):
    """How many bytes nobody has read yet."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def test_a_signal_ends_a_command_in_one_sentence():
    """One of several ranks ends at once, where its launcher means it to: it may wait for the others."""
    command = [sys.executable, "-m", "mmscale", "generate", "tinyworld:llm"]
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    wanted = [("SIGINT", "1", 130), ("SIGTERM", "1", 143), ("SIGHUP", "1", 129), ("SIGTERM", "2", -signal.SIGTERM)]
    # a job in the background ignores it, and so do its children
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = [
        subprocess.Popen(command, env={**os.environ, "WORLD_SIZE": ranks, "RANK": "0"}, **pipes)  # type: ignore[call-overload]
        for _, ranks, _ in wanted
    ]
    signal.signal(signal.SIGINT, before)
    for (name, _, code), process in zip(wanted, started, strict=True):
        with process:
            process.stdin.write(b"x" * (1 << 20))  # more than a pipe holds
            process.stdin.flush()
            while psutil.Process(process.pid).status() != "sleeping" or _waits_in(process.stdin):
                time.sleep(0.05)  # until it has read all, and reads on
            process.send_signal(getattr(signal, name))
            error = process.stderr.read().decode()
            process.stdin.close()
        sentence = f"mmscale: stopped by {name}; the same command goes on from what is saved\n"
        assert (process.returncode, error) == (code, "" if code < 0 else sentence)


def test_the_version_is_told(capsys):
    from importlib.metadata import version

    assert main(["--version"]) == 0 and version("mmscale") in capsys.readouterr().out
