"""Questions answered by the likeliest of their options: the numbers of transformers, kept, and divided by any length later."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmscale.answering.base import Answerer
from mmscale.cli.main import main
from mmscale.config.evaluation import TaskConfig
from mmscale.data.records import Entailment
from mmscale.errors import UserError
from mmscale.evaluation import solving
from mmscale.evaluation.options import NORMALIZATIONS
from mmscale.models.places import resolve_path
from mmscale.parallel.context import ParallelContext
from tests.distributed import ranks

ROWS = [
    ("Anna has 5 books.", "She finds 2 books.", "Anna buys 3 books. Now Anna has 8 books."),
    ("Hugo buys 7 eggs.", "Hugo has 7 more eggs now.", "He had 1."),
    ("Tom has no apples.", "How many apples does Tom have now?", "Tom gives 4 apples to Anna."),
]


@pytest.fixture
def copa(tmp_path):
    """XCOPA's form, six questions of either relation, in Swahili's name."""
    rows = [
        {"premise": premise, "choice1": a, "choice2": b, "question": asked, "label": i % 2, "idx": i}
        for i, (asked, (premise, a, b)) in enumerate((asked, row) for asked in ("cause", "effect") for row in ROWS)
    ]
    (tmp_path / "test.sw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows, tmp_path


def expected(rows):
    """[[(text, log-likelihood, tokens)]] of the options by transformers alone, in float64."""
    path = resolve_path("tinyworld:llm")
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).double()
    values = []
    for row in rows:
        ask = "What was the cause?" if row["question"] == "cause" else "What happened as a result?"
        context = f"{row['premise']}\n{ask}\nAnswer:"
        held = tokenizer(context, add_special_tokens=False)["input_ids"]
        of_row = []
        for text in (row["choice1"], row["choice2"]):
            ids = tokenizer(f"{context} {text}", add_special_tokens=False)["input_ids"]
            assert ids[: len(held)] == held
            target = ids[len(held) :]
            with torch.inference_mode():
                logits = model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0]
            chosen = logits.log_softmax(-1)[len(held) : -1][range(len(target)), target]
            of_row.append((text, float(chosen.sum()), len(target)))
        values.append(of_row)
    return values


def test_options_are_as_likely_as_transformers_says_and_scored_again_without_a_model(copa, capsys):
    rows, folder = copa
    command = ["evaluate", "tinyworld:llm", "--task", "xcopa", "--data", str(folder), "--languages", "sw", "--json"]
    command += ["--prompt", "xcopa_text", "--scoring", "log_likelihood", "--output", str(folder / "out")]
    command += ["--batch-size", "4"]
    assert main([*command, "--length-normalization", "tokens"]) == 0
    told = json.loads(capsys.readouterr().out)["sw"]
    file = folder / "out/xcopa/sw.jsonl"
    kept, shares = [json.loads(line) for line in file.read_text().splitlines()], {}
    wanted = expected(rows)
    divisors = (lambda text, n: 1, lambda text, n: len(text), lambda text, n: len(text.encode()), lambda text, n: n)
    for name, length in zip(NORMALIZATIONS, divisors, strict=True):
        best = [max((0, 1), key=lambda i: of_row[i][1] / length(of_row[i][0], of_row[i][2])) for of_row in wanted]
        shares[name] = sum(row["label"] == i for row, i in zip(rows, best, strict=True)) / len(rows)
        if name == "tokens":
            assert [row["response"] for row in kept] == [str(i + 1) for i in best]
    assert told["by_normalization"] == shares and told["accuracy"] == shares["tokens"]
    assert len(set(shares.values())) > 1, "lengths decide some of them"
    for row, of_row in zip(kept, wanted, strict=True):
        for option, (text, value, tokens) in zip(row["options"], of_row, strict=True):
            assert (option["target"], option["tokens"]) == (text, tokens)
            assert option["log_likelihood"] == pytest.approx(value, rel=1e-5)
    before = file.read_bytes()
    assert main([*command, "--length-normalization", "none"]) == 0, "no row is open: nothing is loaded"
    assert json.loads(capsys.readouterr().out)["sw"]["accuracy"] == shares["none"]
    for name in ("none", "bytes"):
        again = ["evaluate", "--predictions", str(file), "--rule", "exact", "--length-normalization", name, "--json"]
        assert main(again) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == shares[name]
    assert file.read_bytes() == before


def test_what_has_no_options_or_no_likelihoods_is_refused_in_a_sentence(copa, tmp_path, capsys):
    _, folder = copa
    (folder / "a.jsonl").write_text('{"question": "q", "response": "1", "answer": "1"}\n')
    assert main(["evaluate", "--predictions", str(folder / "a.jsonl"), "--length-normalization", "bytes"]) == 2
    assert "keeps no log-likelihoods of options" in capsys.readouterr().err
    assert main(["evaluate", "--predictions", str(folder / "a.jsonl"), "--length-normalization", "byte"]) == 2
    assert "did you mean 'bytes'?" in capsys.readouterr().err
    command = ["evaluate", "tinyworld:llm", "--source", "tinyworld", "--limit", "1", "--scoring", "log_likelihood"]
    assert main([*command, "--prompt", "tinyworld_math", "--output", str(tmp_path / "o")]) == 2
    assert "chooses among a question's options, and it has none" in capsys.readouterr().err
    assert main(["evaluate", "tinyworld:llm", "--task", "xcopa", "--length-normalization", "bytes"]) == 2
    assert "set scoring=log_likelihood too" in capsys.readouterr().err

    class Silent(Answerer):
        title, prompt, fingerprint = "An endpoint", "xcopa_text", ""

        def asked_by(self, prompt):
            return self

        def answer(self, *_):
            raise AssertionError

    data = {"source": "xcopa", "path": str(folder), "split": "test", "languages": ["sw"]}
    task = TaskConfig(data=data, rule="exact", prompt="xcopa_text", scoring="log_likelihood")
    with pytest.raises(UserError, match="An endpoint gives no probabilities of texts that it did not write"):
        solving.accuracy(Silent(), task, ["sw"], ParallelContext(device=torch.device("cpu")))


def test_a_label_is_chosen_among_those_written_as_it_is():
    assert [one.gold for one in Entailment("a", "b", "en", "Neutral").options] == [
        "Entailment",
        "Neutral",
        "Contradiction",
    ]


@pytest.mark.slow
def test_ranks_that_share_questions_or_layers_weigh_options_as_one_process(copa):
    pytest.importorskip("megatron.core", reason="extra tensor-parallel")
    rows, folder = copa
    settings = {
        "methods": "[]",
        "proxy.base.path": "tinyworld:large_llm",
        "languages": "[sw]",
        "threads": 1,
        "evaluation.tasks": f"[{{xcopa: {{data: {{path: {folder}}}, prompt: xcopa_text, scoring: log_likelihood, "
        "generation: {batch_size: 2}}}]",
    }
    found = {}
    for name, count, more in (("one", 1, []), ("data", 2, []), ("tensor", 2, ["parallel.tensor_parallel_size=2"])):
        words = [f"{key}={value}" for key, value in settings.items()]
        ranks.run(
            count, ["-m", "mmscale", "run", "configs/quickstart.yaml", *words, f"output_dir={folder / name}", *more]
        )
        lines = (folder / name / "predictions/base/xcopa/sw.jsonl").read_text().splitlines()
        found[name] = [option["log_likelihood"] for line in lines for option in json.loads(line)["options"]]
    assert found["data"] == found["one"]
    assert found["tensor"] == pytest.approx(found["one"], rel=1e-5)
    assert found["one"] == pytest.approx([value for row in expected(rows) for _, value, _ in row], rel=1e-5)
