"""Files as their authors' programs write them are read as those programs read them; every row is accounted for."""

from __future__ import annotations

import json

import pytest

from mmscale import registry
from mmscale.config.data import DataConfig
from mmscale.data.loading import load_records
from mmscale.data.records import Entailment, Problem
from mmscale.errors import UserError
from mmscale.languages import MGSM_LANGUAGES, find_code
from tests.data.published import FORMS, array, lines


def load(source, path, *languages, **more):
    return load_records(DataConfig(source=source, path=str(path), languages=languages, **more), MGSM_LANGUAGES)


def test_every_source_is_among_the_forms():
    assert {form.source for form in FORMS} == set(registry.names("sources")) - {
        "tinyworld",
        "corpus",
    }  # made by mmscale: tests/tinyworld, tests/corpus


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_each_form_is_read_whole(form, tmp_path):
    path = form.write(tmp_path)
    records, account = load(form.source, path, *form.expected, split=form.split, options=form.options)
    assert account.read == form.expected and len(records) == sum(form.expected.values()) and not account.bad
    for count in account.counts.values():
        assert count.rows == count.read + sum(count.left_out.values())


def test_mindmergers_one_file_of_all_languages_gives_each_row_to_its_language(tmp_path):
    """Their math.json, `lang` spelled out; each language sees all rows and leaves those of the others out."""
    rows = [
        {"lang": name, "query": f"{name} {i}", "response": f"#### {i}"}
        for i in range(40)
        for name in ("Swahili", "German")
    ]
    (tmp_path / "math.json").write_text(array(rows), encoding="utf-8")
    records, account = load("query_translation", tmp_path, "sw", "de")
    assert [r.question for r in records] == [f"Swahili {i}" for i in range(40)] + [f"German {i}" for i in range(40)]
    assert account.counts["sw"].to_json() == {"rows": 80, "read": 40, "bad": 0, "left_out": {"language de": 40}}
    with pytest.raises(
        UserError, match=r"no rows left for language 'te' of 80, left out: language de \(40\), .*sw \(40\)"
    ):
        load("query_translation", tmp_path, "sw", "te")


@pytest.mark.parametrize("value", [None, "Swahilli", 3, ["sw"]])
@pytest.mark.parametrize("source,key", [("mcot_math", "lang-id"), ("query_translation", "lang")])
def test_a_damaged_language_is_a_bad_row_not_a_lost_one(tmp_path, source, key, value):
    rows = [{key: "sw", "question": f"q{i}", "answer": "#### 1"} for i in range(199)] + [
        {key: "de", "question": "d", "answer": "#### 1"}
    ]
    (tmp_path / "train.jsonl").write_text(lines([*rows, {key: value, "question": "q", "answer": "#### 1"}]))
    _, account = load(source, tmp_path / "train.jsonl", "sw")
    assert account.counts["sw"].to_json() == {"rows": 201, "read": 199, "bad": 1, "left_out": {"language de": 1}}
    assert account.bad[0].startswith(f"{tmp_path}/train.jsonl:201: {key} ")


def test_a_row_without_a_language_is_bad_where_others_name_theirs(tmp_path):
    rows = [{"question": "first", "answer": "#### 1"}] + [{"lang-id": "sw", "question": "q", "answer": "#### 1"}] * 150
    (tmp_path / "train.jsonl").write_text(lines(rows))
    records, account = load("mcot_math", tmp_path, "sw")
    assert len(records) == 150 and "train.jsonl:1: names no language" in account.bad[0]


@pytest.mark.parametrize(
    "source,name,text",
    [
        ("mcot_math", "train.jsonl", lines([{"question": "q", "answer": "#### 1"}])),
        ("mgsm", "mgsm_sw.tsv", "swali\t18\n"),
        ("gsm8k", "train.jsonl", lines([{"question": "q", "answer": "#### 1"}])),
        ("bitext", "a.tsv", "moja\tone\n"),
        ("table", "a.jsonl", lines([{"question": "q", "answer": "1"}])),
    ],
)
def test_one_file_is_not_read_as_several_languages(tmp_path, source, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=r"every language|one for several languages"):
        load(source, tmp_path / name, "sw", "de")
    if source == "gsm8k":
        with pytest.raises(UserError, match="gsm8k has no language 'sw'"):
            load(source, tmp_path / name, "sw")
    else:
        assert load(source, tmp_path / name, "sw")[1].read == {"sw": 1}


def test_rows_that_a_type_or_kind_leaves_out_are_counted(tmp_path):
    rows = [{"type": kind, "query": "q", "response": "#### 1"} for kind in ["GSM_SV", "MATH_SV", "GSM_SV"]]
    (tmp_path / "MetaMathQA.json").write_text(array([*rows, {"query": "q", "response": "#### 1"}]))
    _, account = load("metamath", tmp_path, "en", options={"types": ["GSM_SV"]}, max_bad_share=0.5)
    assert account.counts["en"].to_json() == {"rows": 4, "read": 2, "bad": 1, "left_out": {"type MATH_SV": 1}}
    assert "row 3: has no 'type'" in account.bad[0]
    with pytest.raises(UserError, match="types must be a list"):
        load("metamath", tmp_path, "en", options={"types": "GSM_SV"})


def test_csv_cells_are_the_text_that_stands_there(tmp_path):
    (tmp_path / "words.csv").write_text("source,target\nNone,Aucun\nNA,sans objet\nnull,nul\nNaN,rien\n")
    pairs, _ = load("table", tmp_path / "words.csv", "en", options={"kind": "parallel", "target_language": "fr"})
    assert [pair.source for pair in pairs] == ["None", "NA", "null", "NaN"]
    (tmp_path / "n.csv").write_text("question,answer\nq1,1\nq2,\nq3,007\nq4,12345678901234567890\nq5,1e3\nq6,True\n")
    problems, account = load("table", tmp_path / "n.csv", "en")
    assert [p.answer for p in problems] == ["1", "", "007", "12345678901234567890", "1e3", "True"]
    assert account.flagged["no_gold"] == [f"{tmp_path}/n.csv:3"]


def test_csv_faults_have_their_line(tmp_path):
    file = tmp_path / "a.csv"
    good = "q,1\n" * 100
    file.write_text("question,answer\n" + good + 'only one\n"a"b,2\n"two\nlines",3\n')
    records, account = load("table", file, "en", max_bad_share=0.1)
    assert records[-1].question == "two\nlines" and records[-1].origin == f"{file}:104"
    assert [told.split(": ")[0] for told in account.bad] == [f"{file}:102", f"{file}:103"]
    file.write_text("question,answer\n" + good + 'x,"never closed\n' + good)
    with pytest.raises(UserError, match=r"a.csv:102 opens a quote that nothing closes"):
        load("table", file, "en")
    file.write_text("question,question\nq,1\n")
    with pytest.raises(UserError, match="names the column 'question' 2 times"):
        load("table", file, "en")


@pytest.mark.parametrize(
    "name", ["sw", "Swahili", "swahili", "swh", "swa", "swh_Latn", "sw-KE", "Swahili (macrolanguage)"]
)
def test_a_language_is_known_however_a_column_writes_it(tmp_path, name):
    assert find_code(name) == "sw"
    (tmp_path / "a.csv").write_text(f"question,answer,spoken\nq,1,{name}\nq,1,Elvish\nq,1,\n")
    options = {"language_column": "spoken"}
    _, account = load("table", tmp_path / "a.csv", "sw", options=options, max_bad_share=0.5)
    assert account.counts["sw"].to_json() == {"rows": 3, "read": 1, "bad": 1, "left_out": {"language Elvish": 1}}
    with pytest.raises(UserError, match="names no language in 'lang'"):
        load("table", tmp_path / "a.csv", "sw", options={"language_column": "lang"})


@pytest.mark.parametrize(
    "answer,plain",
    [
        ("70,000", "70000"),
        ("8.0", "8"),
        ("-3", "-3"),
        ("0.50", "0.50"),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_golds_keep_every_digit(tmp_path, answer, plain):
    (tmp_path / "mgsm_sw.tsv").write_text(f"swali\t{answer}\n")
    (record,), _ = load("mgsm", tmp_path, "sw")
    assert record.answer == plain


@pytest.mark.parametrize("answer", ["nan", "inf", "-Infinity", "1e999", "1" * 5000, "1_000", "18 apples"])
def test_what_is_no_number_is_no_gold(tmp_path, answer):
    (tmp_path / "mgsm_sw.tsv").write_text(f"swali\t{answer}\n")
    with pytest.raises(UserError, match=r"mgsm_sw.tsv:1: answer '.*' (is not a number|has more than 100 digits)"):
        load("mgsm", tmp_path, "sw")
    (tmp_path / "test_sw.json").write_text('[{"question": "q", "answer": NaN}]')
    with pytest.raises(UserError, match="row 0: 'answer' is nan, not a number"):
        load("mgsm", tmp_path / "test_sw.json", "sw")


def test_values_of_other_kinds_are_not_read_as_text(tmp_path):
    for value in ({"a": 1}, ["a"], True):
        (tmp_path / "train.jsonl").write_text(lines([{"question": value, "answer": "#### 1"}]))
        with pytest.raises(UserError, match=r"train.jsonl:1: 'question' is (dict|list|bool), not text"):
            load("gsm8k", tmp_path, "en")


def test_xnli_labels_keep_their_letters_and_the_hubs_numbers_get_names(tmp_path):
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path / "sw"
    folder.mkdir()
    columns = {"premise": ["a", "b", "c"], "hypothesis": ["d", "e", "f"], "label": [0, 2, -1]}
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "test-00000-of-00001.parquet")
    records, account = load("xnli", tmp_path, "sw", split="test")
    assert [r.label for r in records] == ["entailment", "contradiction", ""] and len(account.flagged["no_gold"]) == 1
    (tmp_path / "test.json").write_text(
        array([{"sentence1": "a", "sentence2": "b", "label": "Neutral", "language": "Swahili"}])
    )
    assert load("xnli", tmp_path / "test.json", "sw")[0] == [
        Entailment("a", "b", "sw", "Neutral", f"{tmp_path}/test.json:row 0")
    ]


def test_msvamp_keeps_the_space_around_a_question_as_published_on_request(tmp_path):
    (tmp_path / "test_Swahili.json").write_text(lines([{"m_query": "Swali. ", "response": "8.0"}]))
    assert load("msvamp", tmp_path, "sw", split="test")[0][0].question == "Swali."
    (record,), _ = load("msvamp", tmp_path, "sw", split="test", options={"published": True})
    assert isinstance(record, Problem) and record.question == "Swali. "


def test_rows_in_another_language_than_their_folder_says_are_left_out(tmp_path):
    """Zip files of X-CSR named for other languages were published with the English rows inside."""
    folder = tmp_path / "sw"
    folder.mkdir()
    row = {
        "id": "1",
        "lang": "en",
        "question": {"stem": "s", "choices": [{"label": "A", "text": "x"}]},
        "answerKey": "A",
    }
    (folder / "dev.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"no rows left for language 'sw' of 1, left out: language en \(1\)"):
        load("xcsqa", tmp_path, "sw", split="dev")
