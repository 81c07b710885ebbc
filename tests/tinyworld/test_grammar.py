"""Exact translations, sound arithmetic, held-out tests."""

from __future__ import annotations

import re

import pytest

from mmscale.data.records import ParallelSentence
from mmscale.data.sources import SourceRequest, source
from mmscale.evaluation.answers import rule
from mmscale.languages import LANGUAGES, MGSM_LANGUAGES
from mmscale.tinyworld import grammar

STORIES = list(grammar.stories(300, seed=3, split="train"))


@pytest.mark.parametrize("code", MGSM_LANGUAGES)
def test_every_language_tells_the_same_numbers_in_its_own_script(code):
    for story in STORIES[:100]:
        english, text = grammar.question(story, "en"), grammar.question(story, code)
        numbers = re.findall(r"\d+", text)
        assert numbers == re.findall(r"\d+", english)
        assert "{" not in text + grammar.rationale(story, code)
    letters = [c for c in text if c.isalpha()]
    if LANGUAGES[code].script != "LATIN":
        assert not [c for c in letters if c.isascii()]


@pytest.mark.parametrize("code", MGSM_LANGUAGES)
def test_the_rationale_computes_the_answer(code):
    for story in STORIES:
        text = grammar.rationale(story, code)
        steps = re.findall(r"(\d+)([*+-])(\d+)=(\d+)", text)
        assert 2 <= len(steps) <= 3
        for left, sign, right, result in steps:
            assert {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[sign] == int(
                result
            )
        assert int(steps[-1][3]) == story.answer
        for sentence in grammar.sentences(story, code):
            assert sentence.rstrip(".。।") in text, "every sentence is told again"
        assert rule("default").correct(text, str(story.answer), code)[1]


@pytest.mark.parametrize("code", ["th", "zh", "sw"])
def test_single_sentences_are_those_of_the_texts_and_translate_each_other(code):
    chosen, request = (
        source("tinyworld"),
        SourceRequest(path="", language=code, limit=200, options={"form": "sentences", "seed": 3}),
    )
    for origin, story in chosen.rows(request):
        pair = chosen.parse(story, request, origin)
        assert isinstance(pair, ParallelSentence)
        texts = [f"{grammar.question(story, spoken)}\n{grammar.rationale(story, spoken)}" for spoken in (code, "en")]
        assert pair.source in texts[0] and pair.target in texts[1]
        assert re.findall(r"\d+", pair.source) == re.findall(r"\d+", pair.target)
        english = [*grammar.question_sentences(story, "en"), *grammar.rationale_sentences(story, "en")]
        other = [*grammar.question_sentences(story, code), *grammar.rationale_sentences(story, code)]
        assert (pair.source, pair.target) in zip(other, english, strict=True)


def test_test_problems_share_no_question_with_training():
    train = {grammar.question(s, "en") for seed in (0, 1) for s in grammar.stories(3000, seed, "train")}
    test = {grammar.question(s, "en") for s in grammar.stories(500, 0, "test")}
    assert len(test) == 500 and not train & test


def test_questions_are_distinct_in_every_language():
    for code in MGSM_LANGUAGES:
        assert len({grammar.question(story, code) for story in STORIES}) == len(STORIES), code


def test_russian_counts_with_three_forms():
    words = grammar.lexicon("ru")
    assert [grammar.counted(words, 1, n) for n in (1, 3, 5, 11, 12, 21, 24)] == [
        "1 книга",
        "3 книги",
        "5 книг",
        "11 книг",
        "12 книг",
        "21 книга",
        "24 книги",
    ]


def test_the_tokenizer_gives_every_text_back(tinyworld_tokenizers):
    for tokenizer in tinyworld_tokenizers:
        for text in ("héllo <0x0A> 漢字 😀 \n\t </", *(grammar.question(STORIES[0], code) for code in MGSM_LANGUAGES)):
            assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_the_tokenizer_trains_to_the_same_vocabulary(tinyworld_tokenizers):
    from mmscale.tinyworld import tokenizer

    assert tokenizer.train().get_vocab() == tinyworld_tokenizers[0].get_vocab()
