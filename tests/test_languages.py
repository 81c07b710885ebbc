"""Any language with a code: one code for each, its name, its script, and the codes of translators."""

from __future__ import annotations

import unicodedata

import pytest
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

from mmscale.cldr import FLORES, english_names
from mmscale.cli.main import main
from mmscale.config.data import DataConfig
from mmscale.data.phrases import ANSWERS
from mmscale.data.prompts import template as get_template
from mmscale.data.records import Problem
from mmscale.errors import UserError
from mmscale.evaluation.answers import rule
from mmscale.languages import LANGUAGES, Language, find_code, language
from mmscale.models.encoders.m2m100 import language_token


def test_every_code_of_nllb_is_one_language_of_ours():
    assert FLORES.split() == list(FAIRSEQ_LANGUAGE_CODES)
    codes = [language(code).code for code in FAIRSEQ_LANGUAGE_CODES]
    assert len(set(codes)) == 202
    assert [language(code).nllb for code in codes] == list(FAIRSEQ_LANGUAGE_CODES)
    assert all(language(known.nllb) is known for known in LANGUAGES.values())


def test_scripts_are_how_unicode_begins_the_names_of_letters():
    letters = {unicodedata.name(chr(i), "").split(" ")[0] for i in range(0x20000) if chr(i).isalpha()}
    used = {language(code).script for code in FAIRSEQ_LANGUAGE_CODES}
    assert used - {"CJK"} <= letters and "CJK" in letters
    known = [language(code).script for code in english_names()]
    assert sum(script in letters for script in known) > 0.98 * len(known)


@pytest.mark.parametrize(
    "written, known",
    [
        ("ko", Language("ko", "Korean", "HANGUL", "kor_Hang")),
        ("kor", Language("ko", "Korean", "HANGUL", "kor_Hang")),
        ("zh-TW", Language("zh-Hant", "Chinese (Traditional)", "CJK", "zho_Hant")),
        ("pt-BR", LANGUAGES["pt"]),
        ("sr-Latn", Language("sr-Latn", "Serbian (Latin)", "LATIN", "")),
        ("swa", LANGUAGES["sw"]),
        ("gsw", Language("gsw", "Swiss German", "LATIN", "")),
        ("kbp", Language("kbp", "Kabiyè", "LATIN", "kbp_Latn")),
    ],
)
def test_a_code_is_one_language_however_it_is_written(written, known):
    assert language(written) == known
    assert DataConfig(source="tinyworld", languages=[written]).languages == (known.code,)


@pytest.mark.parametrize(
    "name, code", [("Korean", "ko"), ("KOR_HANG", "ko"), ("Norwegian Bokmål", "nb"), ("Klingish", None)]
)
def test_files_may_name_a_language_by_its_english_name(name, code):
    assert find_code(name) == code


@pytest.mark.parametrize(
    "code, told",
    [("koreen", "did you mean 'ko' (Korean)"), ("xx", "did you mean"), ("mul", "valid: am"), ("", "valid: am")],
)
def test_an_unknown_code_is_refused_with_near_ones(code, told):
    with pytest.raises(UserError, match="unknown language code") as refused:
        language(code)
    assert told in str(refused.value)


def test_a_translators_tokenizer_is_asked_for_every_way_to_write_a_language():
    class Known:
        def __init__(self, *tokens):
            self.get_vocab = lambda: {token: i for i, token in enumerate(tokens)}

    assert language_token(Known("kor_Hang", "__ko__"), "ko") == ("kor_Hang", 0)
    assert language_token(Known("__ko__"), "ko") == ("ko", 0)
    assert language_token(Known("__tl__", "__no__"), "fil") == ("tl", 0)
    assert language_token(Known("__tl__", "__no__"), "nb") == ("no", 1)
    with pytest.raises(UserError, match="no code for language 'ko'"):
        language_token(Known("__tl__"), "ko")


def test_mcots_prompt_speaks_more_languages_and_takes_phrases():
    problem = Problem(question="Q?", language="ko", origin="a:1")
    assert get_template("mcot").prompt(problem).text.endswith("단계별로 생각해 봅시다.\n")
    with pytest.raises(UserError, match=r"phrases: \{fi: …\}"):
        get_template("mcot").prompt(Problem(question="Q?", language="fi", origin="a:1"))
    own = get_template('{"name": "mcot", "phrases": {"fin": "Askel kerrallaan."}}')
    assert own.prompt(Problem(question="Q?", language="fi")).text == "Question:\nQ?\nAnswer:\nAskel kerrallaan.\n"
    assert own.prompt(Problem(question="Q?", language="en")).text.endswith("step by step.\n")


def test_our_rule_reads_every_answer_line():
    for code, line in ANSWERS.items():
        assert rule("default").extract(f"7 + 65 = 72\n{line.format(answer='72')}", code) == "72", code
        assert rule("default").extract(f"72 = 7 + 65. 3 x 4 = 12\n{line.format(answer='-1.5')}", code) == "-1.5", code


def test_verbs_take_a_language_of_no_benchmark(tmp_path, capsys):
    rows = tmp_path / "ko.jsonl"
    rows.write_text('{"question": "사과 3개와 2개를 더하면?", "answer": "5"}\n' * 2, encoding="utf-8")
    assert main(["data", "stats", "table", str(rows), "--languages", "kor", "--json"]) == 0
    assert '"ko"' in capsys.readouterr().out
    asked = ["generate", "tinyworld:llm", "사과 3개", "--language", "ko", "--max-new-tokens", "1", "--prompt", "mcot"]
    assert main(asked) == 0
