"""Checks find the faults that were put in, and leave what is right alone."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from sacrebleu.metrics import CHRF

from benchmarks import corpus_checks
from mmscale import registry
from mmscale.cli.main import main
from mmscale.config.corpus import CorpusConfig
from mmscale.config.corpus_check import CheckConfig
from mmscale.config.translation import TranslationConfig
from mmscale.corpus import checking
from mmscale.corpus.checks.base import CheckSetting
from mmscale.corpus.checks.equations import equations
from mmscale.corpus.rows import CorpusRow, read_rows, to_document
from mmscale.errors import UserError
from tests.translation.tiny import nllb

PUBLIC = Path(os.environ.get("MMSCALE_PUBLIC_DATA", "none"))
SETTING = CheckSetting(config=CheckConfig(), languages=["de", "es", "fr", "sw", "th", "zh"])


def row(question, original, language="de", **more):
    return CorpusRow(
        problem="a-0",
        source="a",
        language=language,
        question=question,
        source_language="en",
        source_question=original,
        **more,
    )


def finding(name, one):
    check = registry.get("checks", name)
    return check.finding(check.ready(SETTING)([one])[0])


def test_twelve_kinds_of_fault_are_told_from_exact_translations():
    result = corpus_checks.judge(stories=12, languages=("de", "th", "zh", "sw"), every=20)
    missed = sum(round((1 - kind["recall"]) * kind["rows"]) for kind in result["kinds"].values() if kind["rows"])
    faulty = sum(kind["rows"] for kind in result["kinds"].values())
    alarms = sum(len(kind["false_alarms"]) for kind in result["kinds"].values())
    assert faulty > 20 and result["clean"] > 10
    assert missed <= 0.05 * faulty and alarms <= 0.02 * faulty + 1 and not result["alarms_on_clean"]


@pytest.mark.parametrize(
    "language, question, original",
    [
        ("de", "Tom hat 1.250,5 kg und 3 Kisten.", "Tom has 1,250.5 kg and three boxes."),
        ("zh", "他有两个盒子和8万元。", "He has 2 boxes and 80,000 yuan."),
        ("bn", "তার কাছে ৪২টি আপেল আছে।", "He has 42 apples."),
        ("sw", "Duka linafunguliwa saa 8 mchana na lina watu wawili.", "The shop opens at 2 pm and has 2 people."),
        ("fr", "Il part à 14h30 avec une douzaine d'œufs.", "He leaves at 2:30 pm with 12 eggs."),
        ("th", "ปี พ.ศ. 2561 เขามีแมวสองตัว", "In 2018 he had 2 cats."),
        ("pl", "Firma ma 3,5 mln złotych.", "The company has 3.5 million zlotys."),
        ("ru", "В XIX веке было двадцать пять домов.", "In the 19th century there were 25 houses."),
        ("zh", "一亿一千万人,二十零岁。", "110,000,000 people."),  # numerals that cn2an stumbles over
        ("es", "Tiene al menos 384 libros.", "He has at least 384 books."),
    ],
)
def test_numbers_are_read_by_the_customs_of_a_language(language, question, original):
    assert finding("numbers", row(question, original, language)) is None


@pytest.mark.parametrize(
    "language, question, original, reason",
    [
        ("de", "Tom hat 12 Äpfel.", "Tom has 13 apples.", "question without 13 and with 12"),
        ("sw", "Ana ana maembe.", "Ana has 7 mangoes.", "question without 7"),
        ("th", "เขามีแมว 4 ตัว 9 บ้าน", "He has 4 cats.", "question with 9"),
    ],
)
def test_numbers_that_differ_are_told(language, question, original, reason):
    assert finding("numbers", row(question, original, language)).reason == reason


@pytest.mark.parametrize(
    "text, language, told",
    [
        ("30+7=37 คำตอบ 37+7=45", "th", [True, False]),
        ("1.200 + 300 = 1.500 €", "de", [True]),
        ("<<(1.5*12)=18>>18", "zh", [True]),
        ("10 / 3 = 3,33 und 15% * 200 = 30", "de", [True, True]),
        ("৩ × ৪ = ১৩", "bn", [False]),
        ("x + 3 = 5, 8/3 = 24/Y, 2^3 + 1 = 9", "en", []),
        ("100 - 15 = 85%", "en", [True]),
    ],
)
def test_equations_are_worked_out(text, language, told):
    assert [true for _, true in equations(text, language)] == told


@pytest.mark.parametrize(
    "name, one",
    [
        ("final_answer", row("?", "?", rationale="Also 3+4=7. Die Antwort ist 7.", answer="8")),
        ("marks", row("?", "?", rationale="3*4=<<3*4=12>12", source_rationale="3*4=<<3*4=12>>12")),
        ("marks", row(r"Was ist \frac{1}{2 ?", r"What is \frac{1}{2}?")),
        ("repetition", row("Die rote rote rote rote rote rote rote rote Kiste", "The red box")),
        ("leaked_solution", row("Wie viele? Die Antwort ist 7.", "How many?")),
        ("truncated", row("Wie viele Äpfel hat Tom, wenn er", "How many apples has Tom, when he buys some?")),
        ("untranslated", row("Tom hat Äpfel. Then he buys some more of them.", "Tom has apples. Then he buys some more of them.")),
        ("language", row("¿Cuántas manzanas tiene el niño ahora en la cesta?", "How many apples does he have now?")),
        ("script", row("Ana has many mangoes in the box", "Ana has many mangoes in the box", "th")),
    ],
)  # fmt: skip
def test_a_fault_is_told(name, one):
    assert finding(name, one) is not None


def written(folder, rows, more=""):
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    config = folder / "corpus.yaml"
    config.write_text(
        f"output_dir: {folder}/out\nsources: [{{source: table, path: {data}}}]\nshard_rows: 3\n{more}", encoding="utf-8"
    )
    return str(config)


ROWS = [{"question": f"Tom has {n} apples and {n + 2} pears?", "answer": str(2 * n + 2), "rationale": f"{n}+{n + 2}={2 * n + 2}\n#### {2 * n + 2}"} for n in range(6)]  # fmt: skip


def test_checks_drop_what_is_named_and_count_every_row(tmp_path, capsys):
    faulty = [{**ROWS[0]}, {**ROWS[1], "rationale": "1+3=5\n#### 4"}, {**ROWS[2], "rationale": "2+4=6\n#### 7"}]
    config = written(tmp_path, [*ROWS, *faulty], "check: {drop: [duplicate, equations]}\n")
    assert main(["corpus", "read", config]) == 0
    capsys.readouterr()
    assert main(["corpus", "check", config, "--json"]) == 0
    account = json.loads(capsys.readouterr().out)["languages"]["en"]
    assert (account["rows"], account["kept"], account["dropped"]) == (9, 7, 2)
    counts = account["checks"]
    assert counts["duplicate"] == {"judged": 9, "flagged": 1, "dropped": 1}
    assert counts["equations"] == {"judged": 9, "flagged": 1, "dropped": 1}
    assert counts["final_answer"] == {"judged": 9, "flagged": 1, "dropped": 0}
    assert main(["corpus", "check", config, "--list", "duplicate"]) == 0
    assert capsys.readouterr().out == f"table-6.en\t1\tsays what table/en/00000:1 says\t{tmp_path}/rows.jsonl:7\n"
    kept = [
        one for n in range(3) for one in read_rows(tmp_path / "out" / "checked" / "table" / "en" / f"{n:05d}.jsonl.gz")
    ]
    assert kept[-1].notes["flags"]["final_answer"][0] == 1


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.jsonl.gz"))}


def test_checks_say_the_same_for_any_number_of_tasks_and_go_on_where_they_stood(tmp_path, capsys):
    config = written(tmp_path, [*ROWS, *ROWS], "check: {drop: [duplicate]}\n")
    assert main(["corpus", "read", config]) == 0
    assert main(["corpus", "check", config]) == 0
    out = tmp_path / "out"
    before = files(out)
    lost = out / "checked" / "table" / "en" / "00001.jsonl.gz"
    stamp = (out / "checked" / "table" / "en" / "00002.jsonl.gz").stat().st_mtime_ns
    lost.unlink()
    (out / "seen" / "table" / "en" / "00001.json").unlink()
    assert main(["corpus", "check", config, "tasks=3"]) == 0
    assert files(out) == before
    assert (out / "checked" / "table" / "en" / "00002.jsonl.gz").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    "more, told",
    [
        ("check: {drop: [overlap]}\n", "check 'overlap' needs check.benchmarks"),
        ("check: {only: [numbers], drop: [marks]}\n", "drop names 'marks', which only does not run"),
        ("check: {drop: [number]}\n", "unknown check 'number': did you mean 'numbers'?"),
    ],
)
def test_checks_that_cannot_be_run_are_told_in_one_sentence(tmp_path, capsys, more, told):
    config = written(tmp_path, ROWS, more)
    assert main(["corpus", "check", config]) == 2
    error = capsys.readouterr().err
    assert told in error and "Traceback" not in error


def test_rows_that_hold_a_benchmarks_question_are_told(tmp_path, capsys):
    test = tmp_path / "test.jsonl"
    test.write_text(json.dumps({"question": "Tom has 3 apples, and 5 pears?", "answer": "8"}) + "\n", encoding="utf-8")
    more = (
        f"check: {{only: [overlap], drop: [overlap], benchmarks: [{{source: table, path: {test}, languages: [en]}}]}}\n"
    )
    config = written(tmp_path, ROWS, more)
    assert main(["corpus", "read", config]) == 0
    assert main(["corpus", "check", config, "--list", "overlap"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("table-3.en\t1\tholds table ")


def test_near_duplicates_have_the_same_numbers(tmp_path, capsys):
    story = "A farmer walks over the long green hill to the old market town and sells {n} baskets of {what} to the {who} there."
    told = [story.format(n=5, what="ripe apples", who="baker"), story.format(n=5, what="ripe apples", who="bakers"), story.format(n=6, what="ripe apples", who="baker")]  # fmt: skip
    config = written(tmp_path, [{"question": one, "answer": "5", "rationale": "So it is. " + told[0]} for one in told], "check: {only: [near_duplicate]}\n")  # fmt: skip
    assert main(["corpus", "read", config]) == 0
    capsys.readouterr()
    assert main(["corpus", "check", config, "--list", "near_duplicate"]) == 0
    assert [line.split("\t")[0] for line in capsys.readouterr().out.splitlines()] == ["table-1.en"]


def test_checks_are_a_block_of_a_datatrove_pipeline():
    config = CorpusConfig.model_validate(
        {"output_dir": "none", "sources": [{"source": "tinyworld"}], "check": {"only": ["numbers", "marks"], "drop": ["numbers"]}}
    )  # fmt: skip
    rows = [row("Tom hat 12 Äpfel.", "Tom has 12 apples."), row("Tom hat 1 Apfel.", "Tom has 13 apples."), row(r"\sqrt{x", r"\sqrt{x}")]  # fmt: skip
    out = list(checking.CheckRows(config).run(to_document(one) for one in rows))
    assert [one.text for one in out] == [rows[0].question, rows[2].question]
    assert [sorted(one.metadata["notes"]["flags"]) for one in out] == [[], ["marks"]]
    with pytest.raises(UserError, match="check 'duplicate' compares all rows"):
        checking.CheckRows(config.model_copy(update={"check": CheckConfig(only=("duplicate",))}))


def test_a_translation_back_is_held_against_the_original(tmp_path):
    config = CheckConfig(
        back_translation=TranslationConfig(path=str(nllb(tmp_path / "nllb")), max_source_tokens=32, max_new_tokens=8)
    )
    check = registry.get("checks", "back_translation")
    score = check.ready(CheckSetting(config=config, languages=["sw"]))
    told, other = score([row("Tom ana vitabu 3.", "Tom has 3 books.", "sw"), row("Je?", None, "sw")])
    made = re.fullmatch(r"reads, translated back, '(.*)'", told.reason)[1]
    assert told.value == pytest.approx(CHRF().sentence_score(made, ["Tom has 3 books."]).score) and other is None
    assert check.finding(told).threshold == 30


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="MMSCALE_PUBLIC_DATA names no folder")
def test_faults_of_public_files_are_found():
    known = {code: set(places) for code, places in {**corpus_checks.KNOWN_LEAKS, **corpus_checks.KNOWN_LOOPS}.items()}
    wanted = [
        one
        for one in corpus_checks.gsmtrans_rows(PUBLIC)
        if int(one.problem.split("-")[1]) in known.get(one.language, ())
        or one.question.strip() == one.source_question.strip()
    ]
    flags, _ = corpus_checks.flags_of(wanted, ["de", "es", "fr", "ja", "ru", "sw", "zh"], ["leaked_solution", "repetition", "untranslated"])  # fmt: skip
    assert len(wanted) == 541 and sum(not flags[one.id] for one in wanted) == 0
