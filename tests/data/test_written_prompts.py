"""Prompts that a configuration writes down: text around a question, Jinja in a cage, MGSM's exemplars, chat formats."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from pydantic import ValidationError

import mmscale
from mmscale.cli.main import main
from mmscale.config.evaluation import TaskConfig
from mmscale.config.prompt import PromptConfig
from mmscale.config.training import StageConfig
from mmscale.data.prompts import identity, require_readable, template
from mmscale.data.records import Entailment, MultipleChoice, Problem
from mmscale.errors import UserError
from mmscale.models.places import resolve_path

CHOICE = MultipleChoice(
    question="Wapi?", choices=(("A", "benki"), ("B", "mji")), language="sw", answer="B", origin="a:1"
)
PROBLEM = Problem(question="1 + 1?", language="de", answer="2", rationale="Es sind 2.", origin="b:1")
OPTIONS = (
    "{{ question }}\n{% for choice in choices %}{{ choice.label }}) {{ choice.text }}\n{% endfor %}{{ language_name }}:"
)
CAGED = [
    "{{ question * 1000000000 }}",
    "{% for a in range(9) %}{% endfor %}",
    "{% for a in question %}{% endfor %}",
    "{% for a in choices %}{% for b in choices %}{% for c in choices %}{% endfor %}{% endfor %}{% endfor %}",
    "{% set x = question %}",
    "{{ question.__class__.__mro__ }}",
    "{{ ''.__class__ }}",
    "{{ question.format(1) }}",
    "{{ '%999999999d' % 1 }}",
    "{{ question|center(999999999) }}",
    "{{ question|replace('a', question) }}",
    "{{ 10 ** 10 ** 10 }}",
    "{% include 'x' %}",
    "{% import 'os' as os %}",
    "{{ cycler }}",
    "{{ lipsum() }}",
    "{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}",
    "{% filter upper %}x{% endfilter %}",
    "{{ question",
    "{{ gold }}",
]


def written(**prompt):
    return template(PromptConfig(**prompt).text)


def test_text_around_a_question_and_a_template_of_options():
    own = written(before="F: ", after="\nA:", target=" {{ answer }}!")
    assert own.prompt(PROBLEM).text == "F: 1 + 1?\nA:" and own.prompt(PROBLEM).body == "1 + 1?"
    assert own.target(PROBLEM) == " 2!" and written(before="F: ").target(PROBLEM) == "Es sind 2."
    shown = written(template=OPTIONS, reads="choice", target="{{ chosen }}")
    assert shown.prompt(CHOICE).text == "Wapi?\nA) benki\nB) mji\nSwahili:"
    assert shown.prompt(CHOICE).body == "Wapi?", "what may be cut"
    assert [shown.target(option) for option in CHOICE.options] == ["benki", "mji"]
    pair = Entailment("P", "H", "en", "neutral")
    assert written(template="{{ premise }} / {{ hypothesis }}", reads="entailment").prompt(pair).text == "P / H"
    with pytest.raises(
        UserError, match="prompt of this configuration reads multiple-choice questions, and these are word"
    ):
        require_readable(shown, [PROBLEM])


@pytest.mark.parametrize("source", CAGED)
def test_a_template_reaches_nothing_and_ends(source):
    begun = time.monotonic()
    with pytest.raises(UserError):
        own = written(template=source, reads="choice")
        text = own.prompt(CHOICE).text
        raise AssertionError(text)
    assert time.monotonic() - begun < 60  # of ages


@pytest.mark.parametrize(
    "prompt,told",
    [
        ({"before": "a", "template": "b"}, "give one of name"),
        ({"before": "a", "reads": "choice"}, "would leave out what else a choice record says"),
        ({"name": "alpaka"}, "did you mean 'alpaca'"),
        ({"name": "alpaca", "shots": 3}, "exemplars"),
        ({"response_prefix": "A:"}, "set chat: true too"),
        ({"befor": "a"}, "befor"),
        ({"template": "x" * 20_001}, "20000"),
    ],
)
def test_a_prompt_that_says_two_things_or_none_is_refused(prompt, told):
    with pytest.raises(ValidationError, match=told):
        TaskConfig(data={"source": "gsm8k"}, prompt=prompt)


def test_a_written_prompt_is_a_name_that_reads_back_the_same():
    task = TaskConfig(data={"source": "gsm8k"}, prompt={"after": "\nA:", "before": "F: "})
    again = TaskConfig(**task.model_dump(mode="json"))
    assert again == task and template(again.prompt).prompt(PROBLEM).text == "F: 1 + 1?\nA:"
    with pytest.raises(UserError, match="prompt {not.*: correct it"):
        template("{not json")
    with pytest.raises(ValidationError, match="are for asking"):
        StageConfig(steps=1, prompt={"chat": True})


EXEMPLARS = {
    "de": [
        ("Frage: Wie viele?", "Schritt: Zwei. Die Antwort ist 2."),
        ("Frage: Und nun?", "Schritt: Die Antwort ist 3."),
    ],
    "en": [("Question: How many?", "Step: Two. The answer is 2."), ("Question: And now?", "Step: The answer is 3.")],
    "zh": [("问题：多少？", "解答：答案是 2。"), ("问题：几？", "解答：答案是 3。")],
}


@pytest.fixture
def exemplars(tmp_path):
    """In the authors' form: strings in pieces, escaped; and a line that must not be run."""
    file, lines = tmp_path / "exemplars.py", [f"open({str(tmp_path / 'ran')!r}, 'w')", "MGSM_EXEMPLARS = {"]
    for code, pairs in EXEMPLARS.items():
        inner = (f'"{i}": {{"q": {q[:4]!a}\n {q[4:]!a}, "a": {a!a}}},' for i, (q, a) in enumerate(pairs, 1))
        lines += [f'"{code}": {{', *inner, "},"]
    file.write_text("\n".join([*lines, "}"]))
    yield file
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "form,code,text",
    [
        (
            "native",
            "de",
            "Frage: Wie viele?\nSchritt: Zwei. Die Antwort ist 2.\n\nFrage: Und nun?\nSchritt: Die Antwort ist 3.\n\nFrage: 1 + 1?\nSchritt:",
        ),
        (
            "english_cot",
            "de",
            "Frage: Wie viele?\nStep: Two. The answer is 2.\n\nFrage: Und nun?\nStep: The answer is 3.\n\nFrage: 1 + 1?\nStep:",
        ),
        (
            "english",
            "de",
            "Question: How many?\nStep: Two. The answer is 2.\n\nQuestion: And now?\nStep: The answer is 3.\n\nQuestion: 1 + 1?\nStep:",
        ),
        ("native", "zh", "问题：多少？\n解答：答案是 2。\n\n问题：几？\n解答：答案是 3。\n\n问题：1 + 1?\n解答："),
    ],
)
def test_exemplars_stand_before_a_question_in_each_form(exemplars, form, code, text):
    own = written(exemplars=str(exemplars), exemplars_form=form, shots=2)
    one = Problem(question="1 + 1?", language=code, answer="2", rationale="2.")
    assert own.prompt(one).text == text and own.prompt(one).body == "1 + 1?"
    assert own.target(one) == ("2." if code == "zh" else " 2.")
    assert own.stop == ("\nFrage:", "\nQuestion:", "\n问题：")


def test_exemplars_that_are_not_there_are_refused_in_a_sentence(exemplars, tmp_path):
    with pytest.raises(UserError, match=r"exemplars of MGSM not found: .*nowhere\.py"):
        written(exemplars=str(tmp_path / "nowhere.py"))
    with pytest.raises(UserError, match="2 exemplars of 'de', fewer than shots=8"):
        written(exemplars=str(exemplars)).prompt(PROBLEM)
    with pytest.raises(UserError, match="no exemplars of language 'sw': it has de, en, zh"):
        written(exemplars=str(exemplars), shots=1).prompt(Problem(question="q", language="sw"))
    for text, told in (
        ("x = 1", "assigns MGSM_EXEMPLARS 0 times"),
        ("MGSM_EXEMPLARS = {'en': open('x')}", "is not the authors' exemplars.py"),
        ("MGSM_EXEMPLARS = {'en': {'1': {'q': 'x'}}}", "no mapping of exemplars"),
        ("MGSM_EXEMPLARS = {'en': {'1': {'q': 'x', 'a': 'y'}}}", "no label that a colon ends"),
        ("def", "is not the authors' exemplars.py"),
    ):
        (tmp_path / "other.py").write_text(text)
        with pytest.raises(UserError, match=told):
            written(exemplars=str(tmp_path / "other.py"))
    before = identity(PromptConfig(exemplars=str(exemplars)).text)
    exemplars.write_text(exemplars.read_text() + "# mine\n")
    assert identity(PromptConfig(exemplars=str(exemplars)).text) != before, "answers by another file are others"


def test_a_chat_model_is_asked_in_its_format_and_told_of_alpaca(tmp_path, capsys):
    model = tmp_path / "chat"
    shutil.copytree(resolve_path("tinyworld:llm"), model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    form = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }} [/]{% endfor %}"
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": form}))
    command = ["evaluate", str(model), "--source", "tinyworld", "--limit", "1", "--max-new-tokens", "1", "--json"]
    warning = "has a chat template and is asked through the Alpaca prompt"
    assert main([*command, "--output", str(tmp_path / "a")]) == 0
    assert " ".join(capsys.readouterr().err.split()).count(warning) == 1
    assert main([*command, "--output", str(tmp_path / "b"), "--chat-template", "--response-prefix", "A:"]) == 0
    assert warning not in " ".join(capsys.readouterr().err.split())

    asked = mmscale.load_model(
        str(model), prompt=PromptConfig(name="tinyworld_math", chat=True, response_prefix="A:").text
    )
    (one,) = mmscale.tokenize(asked, [PROBLEM], with_target=False)
    tokenizer = asked._answerer.loaded.tokenizers[0].tokenizer
    expected = tokenizer("[user] Q: 1 + 1? [/] A:", add_special_tokens=False)["input_ids"]
    assert list(one.prompt_ids) == expected, "one BOS, which is ours"
    assert (
        main(
            [
                "evaluate",
                "tinyworld:llm",
                "--source",
                "tinyworld",
                "--limit",
                "1",
                "--chat-template",
                "--output",
                str(tmp_path / "c"),
            ]
        )
        == 2
    )
    assert "has no chat template: ask without --chat-template" in capsys.readouterr().err
