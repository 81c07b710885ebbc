"""`mmscale generate`: proxy-tuned answers on one and several ranks, kept as they come, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmscale.cli.main import main
from mmscale.models.places import resolve_path
from tests.distributed.ranks import ROOT, environment

ANTI, BASE = "tinyworld:llm", "tinyworld:large_llm"
QUESTIONS = [f"Anna has {n} apples. Anna buys {n + 3} apples. How many apples does Anna have now?" for n in range(2, 9)]
ASK = ["--prompt", "tinyworld_math", "--max-new-tokens", "24", "--batch-size", "3", "--dtype", "float64"]


@pytest.fixture(scope="module")
def expert(tmp_path_factory) -> str:
    """The small model, its weights moved a little: a stand-in for a tuned one."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(resolve_path(ANTI))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter) * parameter.std()
    folder = tmp_path_factory.mktemp("expert")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_path(ANTI)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def padded(tmp_path_factory) -> str:
    """The base with rows that no token has, as Qwen2.5's sizes have different numbers of them; these would win every choice."""
    return with_padding(BASE, tmp_path_factory.mktemp("padded"))


def with_padding(path: str, folder: Path, factor: float = 40) -> str:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(resolve_path(path))
    rows = model.config.vocab_size
    model.resize_token_embeddings(rows + 37, mean_resizing=False)
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        head[rows:] = factor * torch.cat([head[5:24], -head[5:23]])  # one of each two has a large logit
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve_path(path)).save_pretrained(folder)
    return str(folder)


def test_padding_that_all_models_have_is_no_token(expert, padded, tmp_path, capsys):
    """Sums over it would win every choice, and say nothing."""
    asked = [QUESTIONS[0], "--draft-tokens", "1", "--json"]
    assert main(steered(expert, *asked)) == 0
    plain = json.loads(capsys.readouterr().out)
    small = [with_padding(path, tmp_path / name, 1) for path, name in ((expert, "expert"), (ANTI, "antiexpert"))]
    assert main(["generate", padded, *ASK, "--proxy", *small, *asked]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["response"] == plain["response"]
    assert found["log_probability"] == pytest.approx(plain["log_probability"], abs=1e-5)


def steered(expert: str, *more: str, base: str = BASE) -> list[str]:
    return ["generate", base, *ASK, "--expert", expert, "--antiexpert", ANTI, *more]


def test_speculative_sharded_and_kept_answers_are_the_plain_ones(expert, padded, tmp_path, capsys):
    """One process plain and speculative, then four ranks: base and small models cut in two, questions shared by two.

    Beside the base itself, all with one whose rows are padded: only tokens that all models have are chosen.
    """
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(QUESTIONS))
    given = ["--input", str(questions), "--temperature", "0.6", "--seed", "3"]
    assert main(steered(expert, *given, "--draft-tokens", "1", "--json")) == 0
    plain = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["question"] for row in plain] == QUESTIONS and all(row["log_probability"] < 0 for row in plain)
    assert main(steered(expert, *given, "--draft-tokens", "4", "--json", base=padded)) == 0
    said = capsys.readouterr()
    speculative = [json.loads(line) for line in said.out.splitlines()]
    assert "of drafts accepted" in said.err
    output = tmp_path / "answers.jsonl"
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", "4", "launch/proxy_generate.py"]
    more = ["--shard-small", "--draft-tokens", "3", "--tensor-parallel-size", "2", "--output", str(output)]
    command = [sys.executable, *launched, *steered(expert, *given, *more, base=padded)[1:]]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["response"] for row in rows] == [row["response"] for row in plain]
    assert not list(tmp_path.glob("*.parts"))
    for one, other in zip(plain, speculative, strict=True):
        assert one["response"] == other["response"]
        assert one["log_probability"] == pytest.approx(other["log_probability"], abs=1e-6)


def test_answers_are_kept_and_given_once(tmp_path, capsys):
    questions, output = tmp_path / "questions.txt", tmp_path / "answers.jsonl"
    questions.write_text("\n".join(QUESTIONS))
    command = ["generate", ANTI, *ASK, "--input", str(questions), "--output", str(output)]
    assert main(command) == 0
    whole = output.read_text()
    lines = whole.splitlines(keepends=True)
    assert [json.loads(line)["number"] for line in lines] == list(range(len(QUESTIONS)))
    parts = tmp_path / "answers.jsonl.parts"
    parts.mkdir()
    (parts / "0.jsonl").write_text(lines[4] + lines[1] + lines[2][:20])
    output.write_text(lines[0])
    assert main(command) == 0
    assert output.read_text() == whole
    capsys.readouterr()
    assert main([*command, "--temperature", "1"]) == 2
    assert "answers.jsonl:1: the answer is of another model, setting or question" in capsys.readouterr().err
    assert output.read_text() == whole
    for notes in ("{}\n", "my own notes, and no line break"):
        output.write_text(notes)
        assert main(command) == 2
        assert "answers.jsonl:1: not an answer of mmscale generate" in capsys.readouterr().err
        assert output.read_text() == notes


def test_analysis_says_which_model_moved_a_token(expert, capsys):
    assert main(steered(expert, QUESTIONS[0], "--analysis", "--json", "--alpha", "0")) == 0
    seen = json.loads(capsys.readouterr().out)["analysis"]
    assert seen["changed_top_share"] == 0 and seen["mean_delta"] == pytest.approx(0, abs=1e-6)
    assert main(steered(expert, QUESTIONS[0], "--analysis", "--json", "--alpha", "1.5")) == 0
    row = json.loads(capsys.readouterr().out)
    tokens = row["analysis"]["of_tokens"]
    assert len(tokens) == row["tokens"] and {token["moved_by"] for token in tokens} <= {"expert", "anti-expert"}
    for token in tokens:
        assert token["delta"] == pytest.approx(token["probability"] - token["base_probability"])
    assert any(abs(token["delta"]) > 1e-4 for token in tokens)


def test_a_stop_text_ends_an_answer(capsys):
    assert main(["generate", ANTI, QUESTIONS[0], *ASK]) == 0
    whole = capsys.readouterr().out.strip()
    word = whole.split()[2]
    assert main(["generate", ANTI, QUESTIONS[0], *ASK, "--stop", word, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["response"] == whole[: whole.index(word)].strip() and row["finished"] and row["tokens"] < 24


def test_a_vocabulary_map_leads_to_the_same_answers(expert, tmp_path, capsys):
    """The small models' tokens renamed and their rows shuffled: by the map everything is as before."""
    from mmscale.decoding.vocabulary import read_vocabulary_map
    from mmscale.errors import UserError

    class Renamed:
        def __init__(self, vocabulary):
            self.vocabulary = vocabulary

        def get_vocab(self):
            return self.vocabulary

    base = Renamed({"a": 0, "b": 1, "c": 3})
    other = Renamed({"c": 0, "A": 1, "b": 2, "more": 3})
    file = tmp_path / "map.json"
    file.write_text(json.dumps({"a": "A"}))
    assert read_vocabulary_map(file, base, other, 5, "expert").tolist() == [1, 2, 0, 0, 0]
    for text, message in (
        ("{}", "'a' of the base leads to 'a', which the expert does not have"),
        ('{"a": "b"}', "'a' and 'b' both lead to 'b'"),
        ("[]", "holds no JSON object"),
        ("{", r"map.json:1 is not valid JSON .*: write an object"),
        ('{"a": ["A"]}', "which the expert does not have"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_vocabulary_map(file, base, other, 5, "expert")
    assert main(steered(expert, QUESTIONS[0])) == 0
    plain = capsys.readouterr().out
    file.write_text("{}")
    assert main(["generate", BASE, QUESTIONS[0], *ASK, "--proxy", expert, ANTI, "--vocabulary-map", str(file)]) == 0
    assert capsys.readouterr().out == plain


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--alpha", "nan"], "alpha must be a finite number between -1000 and 1000, got nan"),
        (["--alpha", "1e300"], "alpha must be a finite number between -1000 and 1000"),
        (["--draft-tokens", "²"], "from 1 to 256, not ²"),
        (["--draft-tokens", "1000000000"], "from 1 to 256, not 1000000000"),
        (["--proxy", "a", "b"], "leave --expert and --antiexpert out"),
        (["--draft-tokens", "0"], "--draft-tokens is auto or a number from 1 to 256, not 0"),
        (["--top-p", "0"], "command line: top_p"),
        (["--antiexpert", "EXPERT"], "expert and anti-expert are the same model"),
        (["--chat-template"], "has no chat template"),
        (["--chat-response-prefix", "Answer:"], "give --chat-template too"),
        (["--max-new-tokens", "5000"], "exceed the context of"),
        (["--vocabulary-map", "missing.json"], "missing.json"),
    ],
)
def test_a_mistake_is_one_sentence(expert, capsys, more, message):
    assert main(steered(expert, QUESTIONS[0], *(word.replace("EXPERT", expert) for word in more))) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("mmscale: ") and message in said[-1] and "Traceback" not in "".join(said)


def test_unequal_ends_of_text_are_refused(expert, tmp_path, capsys):

    other = tmp_path / "other"
    shutil.copytree(expert, other)
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": settings["bos_token"]}))
    assert main(["generate", BASE, QUESTIONS[0], "--expert", str(other), "--antiexpert", ANTI]) == 2
    assert "base and expert end text with different tokens" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--analysis"], ["--drafter", ANTI], ["--shard-small"], ["--expert", ANTI]])
def test_what_proxy_tuning_alone_knows_is_refused_elsewhere(option, capsys):
    assert main(["generate", ANTI, QUESTIONS[0], *option]) == 2
    assert "proxy-tuning" in capsys.readouterr().err


LLAMA2_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)


@pytest.fixture(scope="module")
def chat_expert(expert, tmp_path_factory) -> str:
    """The expert with LLaMA-2's chat format."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("chat_expert")
    shutil.copytree(expert, folder, dirs_exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(expert)
    tokenizer.chat_template = LLAMA2_CHAT
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_chat_expert_answers_behind_its_format(chat_expert, tmp_path, capsys):
    """Twenty questions, against the published way written out: "Answer:" is taken off the expert's message and stands behind
    it, base and anti-expert read the plain prompt, and every step runs everything again."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    asked = [
        f"Anna has {n} apples. Anna buys {2 * n + 1} apples. How many apples does Anna have now?" for n in range(20)
    ]
    models = [AutoModelForCausalLM.from_pretrained(resolve_path(m)).double() for m in (BASE, chat_expert, ANTI)]
    tokenizer = AutoTokenizer.from_pretrained(resolve_path(BASE))
    rows = min(model.config.vocab_size for model in models)
    expected = []
    for question in asked:
        plain = f"Answer the following question.\n\nQuestion: {question}\nAnswer:"
        chat = f"[INST] Answer the following question.\n\nQuestion: {question} [/INST] Answer:"
        ids = [[1, *tokenizer(text, add_special_tokens=False)["input_ids"]] for text in (plain, chat, plain)]
        made: list[int] = []
        while len(made) < 8 and (not made or made[-1] != tokenizer.eos_token_id):
            with torch.inference_mode():
                base, tuned, untuned = (
                    model(torch.tensor([[*own, *made]])).logits[0, -1, :rows].float()
                    for model, own in zip(models, ids, strict=True)
                )
            made.append(int((base + (tuned - untuned)).argmax()))
        expected.append(tokenizer.decode(made, skip_special_tokens=True))
    questions = tmp_path / "questions.txt"
    questions.write_text("\n".join(asked))
    command = ["generate", BASE, "--input", str(questions), "--proxy", chat_expert, ANTI, "--prompt", "proxy_gsm"]
    more = ["--max-new-tokens", "8", "--dtype", "float64", "--json", "--chat-template"]
    assert main([*command, *more, "--chat-response-prefix", "Answer:"]) == 0
    found = [json.loads(line)["response"] for line in capsys.readouterr().out.splitlines()]
    assert found == [text.split("Question:")[0].split("Comment:")[0].strip() for text in expected]
    assert len(set(found)) > 5
    assert main([*command, *more]) == 0
    assert [json.loads(line)["response"] for line in capsys.readouterr().out.splitlines()] != found
