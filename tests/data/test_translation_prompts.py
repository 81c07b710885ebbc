"""Prompts that show a translation: beside the question, in its place, named and written."""

from __future__ import annotations

import pytest

from mmscale.config.prompt import PromptConfig
from mmscale.data.prompts import reads_translation, require_readable, require_translated, template
from mmscale.data.records import Entailment, MultipleChoice, Problem, Translation
from mmscale.errors import UserError

QUESTION = Problem(question="mbili na moja?", language="sw", answer="3", rationale="It is 3.", origin="f:1")
ASKED = QUESTION.beside(Translation(("two and one?",), "en"))
ENGLISH = Problem(question="two and one?", language="en", rationale="It is 3.", origin="f:2")
ENGLISH = ENGLISH.beside(Translation(ENGLISH.texts, "en"))
BEGIN = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n"
)
END = "\n\n### Response: Let's think step by step."


def written(**values):
    return PromptConfig(**values).text


def test_hard_shows_the_translation_below_the_question_and_english_once():
    hard = template("mindmerger_hard")
    assert hard.prompt(ASKED).text == f"{BEGIN}mbili na moja?\nEnglish translation: two and one?{END}"
    assert hard.prompt(ASKED).body == "mbili na moja?", "what may be cut"
    assert hard.prompt(ENGLISH).text == template("mindmerger_math").prompt(ENGLISH).text
    assert hard.target(ASKED) == "It is 3." and hard.encoder_text(ASKED) == "mbili na moja?"


def test_translate_test_is_the_english_prompt_around_the_translation():
    alone, plain = template("translate_test"), template("mindmerger_math")
    assert alone.prompt(ASKED) == plain.prompt(ENGLISH) == alone.prompt(ENGLISH)
    assert alone.target(ASKED) == "It is 3."
    assert (alone.encoder_text(ASKED), alone.encoder_language(ASKED)) == ("two and one?", "en")
    assert template(written(name="mcot", shows="translation")).prompt(ASKED) == template("mcot").prompt(ENGLISH), (
        "the step-by-step phrase is English too"
    )


def test_any_kind_of_record_is_asked_in_translation():
    choice = MultipleChoice(question="q?", choices=(("A", "moja"), ("B", "mbili")), language="sw", answer="B")
    choice = choice.beside(Translation(("what?", "one", "two"), "en"))
    shown = template(written(name="xcsqa", shows="translation"))
    assert shown.prompt(choice).text == "what?\nOptions:A. one\tB. two\nAnswer:" and shown.target(choice) == "B"
    open_ended = template(written(name="xcsqa_text", shows="translation"))
    assert [open_ended.target(option) for option in choice.options] == [" one", " two"]
    pair = Entailment("p", "h", "sw", "neutral").beside(Translation(("premise", "hypothesis"), "en"))
    beside = template(
        written(
            template="{{ premise }} ({{ translation }}) {{ hypothesis }} ({{ hypothesis_translation }})",
            reads="entailment",
        )
    )
    assert beside.prompt(pair).text == "p (premise) h (hypothesis)"
    listed = "{% for c in choices %}{{ c.label }}. {{ c.text }} ({{ c.translation }}) {% endfor %}"
    assert template(written(template=listed, reads="choice")).prompt(choice).text == "A. moja (one) B. mbili (two) "


@pytest.mark.parametrize(
    "name,reads",
    [
        ("mindmerger_hard", True),
        ("translate_test", True),
        ("mindmerger_math", False),
        (written(name="alpaca", shows="translation"), True),
        (written(name="mindmerger_hard", stop=["Q:"]), True),
        (written(template="{{ question }} {{ translation }}"), True),
        (written(template="{{ question }} translation"), False),
        (written(template="{{ question }}", target="{{ translation }}"), True),
        (written(exemplars="not/here.py", shows="translation"), True),
        (written(exemplars="not/here.py"), False),
    ],
)
def test_a_template_declares_that_it_reads_a_translation(name, reads):
    assert reads_translation(name) == reads
    if "not/here" not in name:
        chosen = template(name)
        assert chosen.reads_translation == reads
        require_readable(chosen, [QUESTION])
        require_translated(chosen, [ASKED])
        if reads:
            with pytest.raises(
                UserError, match=r"f:1: prompt .* reads a translation of the question, and there is none"
            ):
                require_translated(chosen, [ASKED, QUESTION])


def test_a_translation_of_what_shows_one_already_is_refused():
    with pytest.raises(UserError, match="shows a translation beside the question already: take shows: translation out"):
        template(written(name="mindmerger_hard", shows="translation"))
