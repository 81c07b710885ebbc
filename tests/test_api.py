"""The Python interface: light to import, its examples run, its functions agree with the command line and refuse in one sentence."""

from __future__ import annotations

import ast
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import mmscale
from mmscale.cli.main import main

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
PRINTS = {
    "answer.py": "The answer is 10.",
    "own_data.py": "german.jsonl:1: 24 prompt tokens, 14 to learn",
    "score.py": "default      3 of 3 right",
    "steer.py": "alpha 4.0: ",
    "train.py": "sw: ",
}
"""Something that each example prints when it has done what it says."""


def cells() -> list[str]:
    notebook = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_importing_mmscale_brings_no_torch_and_every_name_is_there():
    code = "import sys, mmscale; assert not {'torch', 'transformers', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert all(getattr(mmscale, name) is not None for name in mmscale.__all__)
    assert set(mmscale.__all__) <= set(dir(mmscale))
    with pytest.raises(AttributeError, match="no attribute 'laod_model'"):
        _ = mmscale.laod_model


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What is this small takes longest where threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """Where all examples run: the notebook takes up what train.py has trained."""
    return tmp_path_factory.mktemp("examples")


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_does_what_it_says(name, shared, monkeypatch, capsys):
    monkeypatch.chdir(shared)
    monkeypatch.setattr(sys, "argv", [name])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert PRINTS[name] in capsys.readouterr().out


def test_the_notebook_runs_from_top_to_bottom(shared, monkeypatch, capsys):
    monkeypatch.chdir(shared)
    namespace: dict[str, Any] = {}
    for cell in cells():
        exec(compile(cell, "tour.ipynb", "exec"), namespace)
    assert "en: 4 of 4 right" in capsys.readouterr().out
    assert [row.origin for row in namespace["after"]] == [problem.origin for problem in namespace["problems"]]


@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_python_on_a_page_runs_as_it_stands(page, capsys):
    [snippet] = re.findall(r"^```python\n(.*?)^```$", (EXAMPLES.parent / page).read_text(), re.DOTALL | re.MULTILINE)
    exec(compile(snippet, page, "exec"), {})
    assert 0 < float(capsys.readouterr().out.split()[-1]) <= 1


def test_examples_use_the_public_interface_alone():
    used = set()
    for text in [*((EXAMPLES / name).read_text(encoding="utf-8") for name in SCRIPTS), *cells()]:
        for node in ast.walk(ast.parse(text)):
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmscale")), text
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mmscale":
                used.add(node.attr)
    assert used <= set(mmscale.__all__)
    assert {"load_model", "load_records", "tokenize", "train_stage", "answer", "score"} <= used


def test_answers_are_those_of_the_command_line_in_the_order_of_the_questions(capsys):
    questions = [
        "Anna has 12 books. Later Anna sells 5 books. Then Anna finds 3 books. How many books does Anna have now?",
        "Hugo has 7 eggs. Hugo buys 2 eggs. Then Hugo finds 1 eggs. How many eggs does Hugo have now?",
        "Anna has 2 books. Anna buys 5 books. Anna buys 5 books. How many books does Anna have now?",
    ]
    model = mmscale.load_model("tinyworld:llm", prompt="tinyworld_math")
    limits = mmscale.GenerationConfig(max_new_tokens=48, batch_size=2)
    rows = mmscale.answer(model, questions, generation=limits)
    assert [row.question for row in rows] == questions
    said = ["--prompt", "tinyworld_math", "--max-new-tokens", "48", "--batch-size", "2"]
    assert main(["generate", "tinyworld:llm", *questions, *said, "--json"]) == 0
    told = [json.loads(line)["response"] for line in capsys.readouterr().out.splitlines()]
    assert [row.response.strip() for row in rows] == told


def test_log_likelihoods_are_those_of_transformers():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mmscale.models.places import resolve_path

    large, small = "tinyworld:large_llm", "tinyworld:llm"
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(small))
    question = "Anna has 12 books. Anna buys 5 books. How many books does Anna have now?"
    rationales = ("12 plus 5 is 17. The answer is 17.", "The answer is 9.")
    problems = [mmscale.Problem(question=question, language="en", rationale=one, answer="17") for one in rationales]
    steered = mmscale.load_model(large, prompt="tinyworld_math", expert=small, antiexpert=large, alpha=0.5)
    plain = {name: AutoModelForCausalLM.from_pretrained(resolve_path(name)).double() for name in (large, small)}
    for one, told in zip(mmscale.tokenize(steered, problems), mmscale.log_likelihood(steered, problems), strict=True):
        *target, eos = one.target_ids
        assert eos == tokenizer.eos_token_id
        ids = torch.tensor([[tokenizer.bos_token_id, *one.prompt_ids, *target]])
        with torch.inference_mode():
            base, expert = (plain[name](ids).logits[0] for name in (large, small))
        rows = (base + 0.5 * (expert - base)).log_softmax(-1)[-len(target) - 1 : -1]
        assert told == pytest.approx(float(rows[range(len(target)), target].sum()), rel=1e-4)
    with pytest.raises(mmscale.UserError, match="exceed the context"):
        mmscale.log_likelihood(steered, [mmscale.Problem(question=question, language="en", rationale="one " * 5000)])


def test_bad_input_is_one_sentence(tmp_path):
    with pytest.raises(mmscale.UserError, match="both expert and antiexpert"):
        mmscale.load_model("tinyworld:large_llm", expert="tinyworld:llm")
    with pytest.raises(mmscale.UserError, match="dtype"):
        mmscale.load_model("tinyworld:llm", dtype="float12")
    with pytest.raises(mmscale.UserError, match="did you mean 'default'"):
        mmscale.score([mmscale.Prediction(question="1 + 1?", response="2", answer="2")], "defualt")
    with pytest.raises(mmscale.UserError, match="no-such-file"):
        mmscale.read_predictions(tmp_path / "no-such-file.jsonl")
    with pytest.raises(mmscale.UserError, match="mapping"):
        mmscale.train_stage("configs/quickstart.yaml", "mindmerger.mappin")
