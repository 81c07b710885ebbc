"""What is not translated comes back: marks, lines without words, answers; texts that are cut up are whole again."""

from __future__ import annotations

import re

import sentencex
from hypothesis import given, settings
from hypothesis import strategies as st

from mmscale.corpus.marks import Cutter, Passage
from mmscale.corpus.translate import lost_numbers

PLACEHOLDER = "[{n}]"
SAID = [
    "Anna has 16 - 3 = <<16-3=13>>13 eggs.",
    "Mr. Lee pays $3.50 and $4.",
    r"Let $x^2 = 4$, so \boxed{2} it is.",
    "See https://example.org/a_b?c=1 now!",
    "`a = 1` prints.",
    "```python\nprint('Hi. No.')\n```",
    "\n",
    "\n\n",
    " ",
    "#### 72",
    "5 + 6 = 11",
    "\\[ a = b \\]",
    "[1] is a note.",
    "\ue000 private",
    "Natalia sold <<48/2=24>>24 clips. ",
]
texts = st.lists(st.sampled_from(SAID) | st.text("ab .\n$`<>[]1", max_size=12), max_size=8).map("".join)


def cutter(by_line=True, **glossary):
    return Cutter(lambda text: list(sentencex.segment("en", text)), "Jibu ni: {answer}", glossary, by_line)


def through(text, translate, cut):
    """A text cut up, translated and put together again, as the step does it."""

    def one(part):
        if isinstance(part, str):
            return part
        whole = part.restored(translate(part.shown(PLACEHOLDER)), PLACEHOLDER)
        return part.joined(translate) if whole is None else whole

    return "".join(map(one, cut.cut(text)))


@settings(max_examples=150, deadline=None)
@given(texts, st.booleans())
def test_a_translator_that_changes_nothing_gives_the_text_back(text, by_line):
    kept = through(text, lambda piece: piece, cutter(by_line))
    assert re.sub(r"\s+", " ", kept).strip() == re.sub(r"\s+", " ", text).strip()
    assert kept.count("\n") == text.count("\n") or not by_line


@settings(max_examples=150, deadline=None)
@given(texts, st.booleans())
def test_a_translator_that_loses_every_mark_loses_none(text, by_line):
    cut = cutter(by_line)
    marks = [mark.text for part in cut.cut(text) if isinstance(part, Passage) for mark in part.marks]
    kept = through(text, lambda piece: re.sub(r"[^A-Za-z ]", "", piece), cut)
    for mark in set(marks):
        assert kept.count(mark) >= marks.count(mark)


def test_gsm8ks_and_metamaths_solutions_keep_what_states_the_answer():
    solution = (
        "She sold 48/2 = <<48/2=24>>24 clips in May.\nIn total 48+24 = <<48+24=72>>72.\n#### 72\nThe answer is: 72"
    )
    upper = through(solution, str.upper, cutter())
    assert (
        upper == "SHE SOLD 48/2 = <<48/2=24>>24 CLIPS IN MAY.\nIN TOTAL 48+24 = <<48+24=72>>72.\n#### 72\nJibu ni: 72"
    )
    stated = through(r"So it holds. The answer is: $\frac{1}{2}$", str.upper, cutter())
    assert stated == r"SO IT HOLDS. Jibu ni: $\frac{1}{2}$"
    assert through("The answer is that he may go.", str.upper, cutter()) == "THE ANSWER IS THAT HE MAY GO."


def test_glossary_terms_are_always_the_same():
    cut = cutter(Janet="Ja.", egg="yai")
    assert through("Janet has an egg. Janet ate eggs.", str.upper, cut) == "Ja. HAS AN yai. Ja. ATE EGGS."
    lossy = through("Janet has an egg.", lambda piece: piece.upper().replace("[", ""), cut)
    assert lossy == "Ja. HAS AN yai."


def test_sentences_are_the_text_in_every_language():
    for code, count, text in [
        ("bn", 3, "আনা ১২টি আপেল আছে। সে ৫টি কেনে। কয়টি আছে?"),
        ("zh", 3, "安娜有12个苹果。她买了5个。现在有几个？"),
        ("te", 3, "అన్నా వద్ద 12 ఉన్నాయి. ఆమె 5 కొన్నది. ఎన్ని?"),
        ("ja", 2, "アナは12個持っています。今何個ですか？"),
        ("th", 1, "แอนนามีแอปเปิล 12 ผล เธอซื้อเพิ่ม 5 ผล"),
    ]:
        sentences = list(sentencex.segment(code, text))
        assert "".join(sentences) == text and len(sentences) == count


def test_lost_numbers_are_found_whatever_the_digits_and_marks():
    assert lost_numbers("She has 1,250.5 and 3.", "en", "Ana 1.250,5 na 3.", "de") == ()
    assert lost_numbers("12 and 5 and 5", "en", "১২টি ৫টি", "bn") == ("5",)
