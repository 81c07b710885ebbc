"""Every source reads what its authors publish; each known fault is found by its filter; bad rows are named."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from pydantic import ValidationError

from mmscale.config.data import DataConfig
from mmscale.data.filters import PerRecord, built_in, flag
from mmscale.data.loading import load_records
from mmscale.data.overlap import find_overlaps
from mmscale.data.prompts import template
from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem, Record
from mmscale.errors import UserError
from mmscale.languages import MGSM_LANGUAGES


def load(source, path, *languages, **more):
    return load_records(DataConfig(source=source, path=str(path), languages=languages, **more), MGSM_LANGUAGES)


def write(folder, name, rows, array=False):
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        json.dumps(rows, ensure_ascii=False)
        if array
        else "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    (folder / name).write_text(text, encoding="utf-8")
    return folder


# ---- real files ------------------------------------------------------------------------------------------------


def test_mgsm_has_250_aligned_problems_in_eleven_languages(public_data):
    records, account = load("mgsm", public_data / "mgsm")
    assert account.read == dict.fromkeys(MGSM_LANGUAGES, 250) and not account.bad
    answers = [[r.answer for r in records if r.language == code] for code in MGSM_LANGUAGES]
    assert all(column == answers[0] for column in answers)
    assert "70000" in answers[0], "thousands comma"
    assert {k: len(v) for k, v in account.flagged.items()} == {"not_nfc": 238}


def test_msvamp_faults_are_found(public_data):
    records, account = load("msvamp", public_data / "msvamp")
    assert len(records) == 10_000 and "te" not in account.read
    counts = {name: len(rows) for name, rows in account.flagged.items()}
    assert counts["wrong_gold"] == counts["ill_posed"] == 50
    assert counts["native_digits"] == 757
    conflicting = {row.rsplit("_", 1)[1] for row in account.flagged["conflicting_answers"]}
    assert {f"Thai.json:{n + 1}" for n in (260, 263, 267, 268, 271)} <= conflicting
    assert {f"Bengali.json:{n + 1}" for n in (364, 365, 368, 376)} <= conflicting
    clean, account = load("msvamp", public_data / "msvamp", drop=("wrong_gold", "ill_posed"))
    assert len(clean) == 9_900 and account.dropped == 100


def test_gsm8k_answers_are_numbers(public_data):
    train, _ = load("gsm8k", public_data / "gsm8k", "en")
    test, account = load("gsm8k", public_data / "gsm8k", "en", split="test")
    assert (len(train), len(test)) == (7473, 1319) and not account.bad
    assert all(float(record.answer) == int(record.answer) for record in train + test)


def test_gsm8kinstruct_misfiled_languages_are_found(public_data):
    records, account = load("gsm8kinstruct", public_data / "gsm8kinstruct", "en")
    assert len(records) == 7476
    assert [int(row.rsplit(":", 1)[1]) - 1 for row in account.flagged["other_language_rationale"]] == [2597, 2598, 4095]
    assert len(account.flagged["no_gold"]) >= 14 and len(account.flagged["duplicate_question"]) == 3


@pytest.mark.parametrize(
    "code,rows,untranslated,leaked,loops",
    [
        ("fr", 7464, 377, (), ()),
        ("es", 7468, 64, (), ()),
        ("de", 7464, 53, (7438,), ()),
        ("zh", 7363, 29, (3078, 5038), ()),
        ("sw", 7469, 11, (), (5985,)),
        ("ru", 7360, 0, (), (4290,)),
        ("ja", 7466, 0, (3300, 5899), ()),
    ],
)
def test_gsmtrans_faults_are_found(public_data, code, rows, untranslated, leaked, loops):
    records, account = load("gsmtrans", public_data / "gsmtrans", code)
    assert len(records) == rows

    def found(name):
        return {int(row.rsplit(":", 1)[1]) - 1 for row in account.flagged.get(name, [])}

    assert len(found("untranslated")) == untranslated
    assert found("leaked_solution") >= set(leaked) and found("repetition_loop") == set(loops)
    if code == "zh":
        assert len(found("foreign_script")) >= 35


def test_xcopa_corrupt_relations_are_found_and_repaired(public_data):
    folder = public_data / "xcopa"
    for code, corrupt in {"th": 250, "tr": 51, "sw": 37, "id": 4, "it": 4, "et": 0, "zh": 0}.items():
        records, account = load("xcopa", folder, code, split="test")
        assert len(records) == 500 and len(account.flagged.get("corrupt_relation", [])) == corrupt, code
        _, repaired = load("xcopa", folder, code, split="test", options={"relation": "et"})
        assert "corrupt_relation" not in repaired.flagged


def test_xnli_dev_is_labelled_in_fifteen_languages(public_data):
    codes = ["ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh"]
    records, account = load("xnli", public_data / "xnli", *codes, split="dev")
    assert account.read == dict.fromkeys(codes, 2490)
    assert {r.label for r in records} == {"entailment", "neutral", "contradiction"}


def test_xcsqa_and_csqa(public_data):
    records, _ = load("xcsqa", public_data / "csqa_en", "en", split="train")
    assert len(records) == 9741 and all(len(r.choices) == 5 for r in records)
    sample, account = load("xcsqa", public_data / "xcsqa" / "X-CSQA_en_sample", "en", split="test")
    assert len(account.flagged["no_gold"]) == len(sample)


def test_pairs_can_be_turned_round_once_their_faults_are_found(tmp_path):
    """En to X: prompt and target change sides, filters have seen the pair as it is published."""
    folder = tmp_path / "sw-en"
    folder.mkdir()
    (folder / "train.sw").write_text("Maembe mangapi?\nNi <<2+3=5>> ngapi?\n", encoding="utf-8")
    (folder / "train.en").write_text("How many mangoes?\nHow many?\n", encoding="utf-8")
    (record,), account = load("gsmtrans", tmp_path, "sw", drop=("leaked_solution",), reversed=True)
    assert record == ParallelSentence("How many mangoes?", "Maembe mangapi?", "en", "sw", record.origin)
    assert account.read == {"sw": 2} and account.dropped == 1
    shown = template("question_translation")
    assert (
        "from English to Swahili. How many mangoes?" in shown.prompt(record).text
        and shown.target(record) == record.target
    )
    tested = Problem(question="Maembe mangapi?", language="sw", answer="5", origin="t")
    assert find_overlaps([record], [tested])[0], "what is trained as a target was seen as well"
    with pytest.raises(UserError, match="has no sentence pairs to turn round"):
        load("tinyworld", "", "en", reversed=True)


def test_bitext_with_other_codes_in_file_names(public_data):
    options = {
        "source_file": "tatoeba.{code}-eng.{code}",
        "target_file": "tatoeba.{code}-eng.eng",
        "codes": {"sw": "swh"},
    }
    records, _ = load("bitext", public_data / "parallel" / "tatoeba", "sw", options=options)
    assert len(records) == 390 and records[0] == ParallelSentence(
        "Alinileta kahawa.", "He brought me coffee.", "sw", "en", records[0].origin
    )


def test_table_maps_columns(public_data):
    options = {"columns": {"question": "Question", "answer": "Answer"}}
    records, _ = load("table", public_data / "svamp" / "SVAMP.json", "en", options=options)
    assert len(records) == 1000 and records[0].answer == "51.0"


# ---- the other published forms, written as their authors do --------------------------------------------------------


@pytest.mark.parametrize(
    "source,name,rows,array",
    [
        ("mgsm", "test_sw.json", [{"question": "q1", "answer": "18"}], True),
        ("mgsm", "mgsm_sw.jsonl", [{"query": "q1", "response": "18"}], False),
        ("msvamp", "test_Swahili.json", [{"question": "q1", "equation": "- a b", "answer": "18.0"}], True),
        ("msvamp", "test_Swahili.json", [{"query": "e1", "m_query": "q1", "equation": "", "response": "18.0"}], False),
    ],
)
def test_both_published_forms_give_the_same_problem(tmp_path, source, name, rows, array):
    (record,), _ = load(source, write(tmp_path, name, rows, array), "sw")
    assert (record.question, record.answer, record.language) == ("q1", "18", "sw")


def test_metamath_rows(tmp_path):
    rows = [
        {
            "type": "GSM_AnsAug",
            "query": "q",
            "original_question": "o",
            "response": "so 1+1=2\n#### 2\nThe answer is: 2",
        },
        {"type": "MATH_SV", "query": "m", "original_question": "o", "response": "r\nThe answer is: \\frac{1}{2}"},
    ]
    folder = write(tmp_path, "MetaMathQA-395K.json", rows, array=True)
    records, _ = load("metamath", folder, "en")
    assert [r.answer for r in records] == ["2", "\\frac{1}{2}"] and records[0].rationale.endswith("The answer is: 2")
    only, _ = load("metamath", folder, "en", options={"types": ["MATH_SV"]})
    assert [r.question for r in only] == ["m"]


def test_mathinstruct_programs_are_told_apart(tmp_path):
    rows = [
        {"source": "a", "instruction": "i", "output": "so the answer is 4."},
        {"source": "b", "instruction": "p", "output": "x = 2 + 2\nprint(x)"},
    ]
    folder = write(tmp_path, "MathInstruct.json", rows, array=True)
    assert [r.question for r in load("mathinstruct", folder, "en", options={"programs": "only"})[0]] == ["p"]
    (record,), _ = load("mathinstruct", folder, "en", options={"programs": "none"})
    assert record.answer == "4"


def test_mcot_math_rows_are_filtered_by_language(tmp_path):
    rows = [
        {"lang-id": "sw", "question": "a", "answer": "x #### 1"},
        {"lang-id": "de", "question": "b", "answer": "y #### 2"},
    ]
    (record,), _ = load("mcot_math", write(tmp_path, "mCoT-MATH.jsonl", rows), "de")
    assert (record.question, record.answer, record.rationale_language) == ("b", "2", "de")


def test_xcsqa_dict_of_lists_equals_list(tmp_path):
    as_list = [{"label": "A", "text": "x"}, {"label": "B", "text": ""}]
    as_dict = {"label": ["A", "B"], "text": ["x", ""]}
    rows = [
        {"id": str(i), "lang": "jap", "question": {"stem": "s", "choices": c}, "answerKey": "A"}
        for i, c in enumerate((as_list, as_dict))
    ]
    records, account = load("xcsqa", write(tmp_path / "jap", "dev.jsonl", rows).parent, "ja", split="dev")
    assert isinstance(records[0], MultipleChoice) and records[0].choices == records[1].choices == (
        ("A", "x"),
        ("B", ""),
    )
    assert len(account.flagged["empty_option"]) == 2


def test_mindmerger_authors_files(tmp_path):
    folder = tmp_path / "bilingual_pairs" / "en-sw"
    folder.mkdir(parents=True)
    (folder / "train_100k.sw").write_text("moja\nmbili \n", encoding="utf-8")
    (folder / "train_100k.en").write_text("one\ntwo\n", encoding="utf-8")
    pairs, _ = load("bilingual_pairs", folder.parent, "sw")
    assert [(p.source, p.target) for p in pairs] == [("moja", "one"), ("mbili", "two")]
    rows = [{"query": "swali", "response": "1+1=2 #### 2"}]
    (record,), _ = load(
        "query_translation", write(tmp_path / "query_translation", "metamath_Swahili.json", rows, array=True), "sw"
    )
    assert (record.question, record.rationale_language, record.answer) == ("swali", "en", "2")


def test_parquet_table(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(
        pyarrow.table({"p": ["a", "b"], "h": ["c", "d"], "l": ["neutral", "entailment"]}), tmp_path / "x.parquet"
    )
    options = {"kind": "entailment", "columns": {"premise": "p", "hypothesis": "h", "label": "l"}}
    records, _ = load("table", tmp_path / "x.parquet", "en", options=options)
    assert records[1] == Entailment("b", "d", "en", "entailment", records[1].origin)


# ---- bad input -------------------------------------------------------------------------------------------------


def test_a_column_is_found_by_its_name_or_its_absence_told(tmp_path):
    (tmp_path / "a.csv").write_text("question, answer ,rationale\nq, 007 ,r\n")
    [record] = load("table", tmp_path / "a.csv", "en")[0]
    assert (record.answer, record.rationale) == ("007", "r")
    with pytest.raises(UserError, match="has no column 'Reason', which options.columns names for rationale"):
        load("table", tmp_path / "a.csv", "en", options={"columns": {"rationale": "Reason"}})


def test_an_unreadable_row_is_named_and_too_many_stop_the_run(tmp_path):
    good = '{"question": "q", "answer": "1 #### 1"}\n'
    (tmp_path / "train.jsonl").write_text(good * 150 + "{broken\n", encoding="utf-8")
    records, account = load("gsm8k", tmp_path, "en")
    assert len(records) == 150 and account.bad[0].startswith(f"{tmp_path}/train.jsonl:151: not valid JSON")
    (tmp_path / "train.jsonl").write_text(good + "{broken\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"train.jsonl:2: not valid JSON .*; 1 of 2 rows"):
        load("gsm8k", tmp_path, "en")


def test_wrong_encoding_names_file_and_line(tmp_path):
    (tmp_path / "mgsm_de.tsv").write_bytes(b"Frage\t1\n" + "Äpfel\t2\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"mgsm_de.tsv:2 is not UTF-8 .*iconv"):
        load("mgsm", tmp_path, "de")


@pytest.mark.parametrize(
    "call,message",
    [
        (("mgsm", "/nowhere", "de"), "data not found: /nowhere"),
        (("mgms", "", "de"), "did you mean 'mgsm'"),
        (("tinyworld", "", "hi"), "tinyworld has no language 'hi'"),
    ],
)
def test_wrong_names_are_told(call, message):
    with pytest.raises((UserError, ValidationError), match=message):
        load(*call)


def test_unknown_filter_and_option_are_told(public_data):
    with pytest.raises(ValidationError, match="did you mean 'untranslated'"):
        load("gsmtrans", public_data / "gsmtrans", "sw", drop=("untranslatd",))
    with pytest.raises(UserError, match="unknown option of source mgsm 'foo'"):
        load("mgsm", public_data / "mgsm", "sw", options={"foo": 1})


def test_an_empty_file_is_told(tmp_path):
    (tmp_path / "mgsm_de.tsv").write_text("")
    with pytest.raises(UserError, match="has no rows left"):
        load("mgsm", tmp_path, "de")


def test_misaligned_bitext_is_refused(tmp_path):
    folder = tmp_path / "de-en"
    folder.mkdir()
    (folder / "train.de").write_text("a\nb\n")
    (folder / "train.en").write_text("a\n")
    with pytest.raises(UserError, match="2 lines but .*train.en has 1"):
        load("gsmtrans", tmp_path, "de")


def test_unicode_line_separators_do_not_split_a_row(tmp_path):
    (tmp_path / "mgsm_de.tsv").write_text("eins\u2028zwei\t3\n", encoding="utf-8")
    (record,), _ = load("mgsm", tmp_path, "de")
    assert isinstance(record, Problem) and record.question == "eins\u2028zwei"


@dataclass(frozen=True)
class Riddle(Record):
    """A kind of record that this package does not know."""

    riddle: str
    solution: str
    language: str = "en"
    origin: str = "riddles:1"

    @property
    def text(self) -> str:
        return self.riddle

    @property
    def gold(self) -> str:
        return self.solution


def test_a_filter_passes_over_kinds_it_does_not_read_until_one_joins():
    riddles = [Riddle("6 x 7 = 42?", ""), Riddle("１２ eggs", "12"), Riddle("１２ eggs", "13")]
    assert flag(riddles, "riddles", built_in()) == {"native_digits": {1, 2}, "duplicate_question": {2}}
    unsolved = PerRecord((Problem,), lambda record: not record.rationale)
    assert unsolved([*riddles, Problem(question="q", language="en")], "riddles") == {3}
    unsolved.register(Riddle, lambda riddle: not riddle.solution)
    assert unsolved(riddles, "riddles") == {0}


def test_questions_of_x_csqa_are_paired_with_the_english_ones_of_their_id(tmp_path):
    def row(number, stem):
        choices = [{"label": label, "text": label} for label in "AB"]
        return {"id": str(number), "question": {"stem": stem, "choices": choices}, "answerKey": "A"}

    write(tmp_path, "train_sw.jsonl", [row(1, "Wapi?"), row(0, "Nani?"), row(9, "Lini?")])
    write(tmp_path, "train_en.jsonl", [row(0, "Who?"), row(1, "Where?")])
    options = {"form": "translation"}
    pairs, account = load("xcsqa", tmp_path, "sw", options=options, max_bad_share=0.5)
    assert [(pair.text, pair.english) for pair in pairs] == [("Wapi?", "Where?"), ("Nani?", "Who?")]
    assert "no row of this id in the English file" in account.bad[0]
