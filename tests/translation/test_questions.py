"""Translations of records: made once, kept, told; and data files with them."""

from __future__ import annotations

import json

import pytest
import torch

from mmscale.cli.main import main
from mmscale.config.translation import TranslationConfig
from mmscale.data.records import Entailment, MultipleChoice, ParallelSentence, Problem
from mmscale.errors import NotHereYet, UserError
from mmscale.parallel.context import ParallelContext
from mmscale.translation import questions
from mmscale.translation.questions import Translations
from mmscale.translation.translator import load_translator
from tests.distributed import ranks
from tests.translation.tiny import LANGUAGES, TEXTS, nllb

ALONE = ParallelContext(device=torch.device("cpu"))
RECORDS = [
    Problem(question=text, language=code, answer="3", origin=f"f:{i}")
    for i, (text, code) in enumerate(zip(TEXTS, LANGUAGES, strict=True))
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return nllb(tmp_path_factory.mktemp("nllb"))


def settings(folder, cache, **more):
    return TranslationConfig(path=str(folder), cache=str(cache), max_source_tokens=60, max_new_tokens=12, **more)


def texts(records):
    return [record.translation.texts[0] for record in records]


def never(*_):
    raise AssertionError("a translator is loaded")


def rows_of(cache):
    return [file for file in cache.rglob("*.jsonl") if file.stat().st_size]


def test_a_translation_is_made_once_and_a_damaged_one_again(folder, tmp_path, monkeypatch, capsys):
    config = settings(folder, tmp_path, batch_size=2)
    with pytest.raises(NotHereYet, match="4 of 4 texts are not translated by"):
        Translations(config, ALONE).kept(RECORDS)
    cold = Translations(config, ALONE).of(RECORDS, "Task")
    said = capsys.readouterr().err
    assert "4 texts translated by" in said and "1 questions are in en already" in said and "max_new_tokens" in said
    alone = load_translator(config, ALONE.device)
    assert texts(cold)[:4] == [alone.translate([r.question], [r.language])[0].text for r in RECORDS[:4]]
    assert texts(cold)[4] == RECORDS[4].question, "English is kept as it is"
    assert [record.translated.gold for record in cold] == ["3"] * 5 and {r.translated.language for r in cold} == {"en"}

    monkeypatch.setattr(questions, "load_translator", never)
    assert Translations(config, ALONE).of(RECORDS, "Task") == cold == Translations(config, ALONE).kept(RECORDS)
    assert "4 translations taken from" in capsys.readouterr().err

    (file,) = rows_of(tmp_path)
    lines = file.read_text().splitlines()
    row = json.loads(lines[1])
    lines[1] = json.dumps({**row, "translation": row["text"], "text": row["text"] + "x"})
    lines[2] = lines[2].replace('"text": "', '"text": "y', 1)
    torn = lines.pop()  # what a kill leaves
    file.write_text("".join(line + "\n" for line in lines) + torn[: len(torn) // 2])
    loaded = []
    monkeypatch.setattr(questions, "load_translator", lambda *given: loaded.append(given) or load_translator(*given))
    assert Translations(config, ALONE).of(RECORDS, "Task") == cold and len(loaded) == 1
    said = capsys.readouterr().err
    assert (
        f"{file}:2 is damaged" in said
        and f"{file}:3 is damaged" in said
        and "3 texts translated by" in said
        and ":4" not in said
    )


def test_other_weights_or_settings_are_another_translation(folder, tmp_path):
    plain = settings(folder, tmp_path)
    keys = {Translations(plain.model_copy(update=change), ALONE).cache.work for change in ({}, {"batch_size": 7})}
    assert len(keys) == 1
    others = [{"beams": 2}, {"max_new_tokens": 13}, {"max_source_tokens": 59}, {"dtype": "float64"}, {"target": "de"}]
    keys |= {Translations(plain.model_copy(update=change), ALONE).cache.work for change in others}
    other = nllb(tmp_path / "other", seed=2)
    keys.add(Translations(settings(other, tmp_path), ALONE).cache.work)
    assert len(keys) == 7


def test_what_was_translated_before_a_fault_is_not_translated_again(folder, tmp_path, monkeypatch):
    config, made = settings(folder, tmp_path, batch_size=1), []

    class Failing:
        def __init__(self, *given):
            self.inner = load_translator(*given)

        def translate(self, batch, languages):
            if len(made) == 2:
                raise UserError("the disk is full")
            made.append(batch)
            return self.inner.translate(batch, languages)

    monkeypatch.setattr(questions, "load_translator", Failing)
    with pytest.raises(UserError, match="the disk is full"):
        Translations(config, ALONE).of(RECORDS, "Task")
    monkeypatch.setattr(questions, "load_translator", load_translator)
    before = {name: file.read_text() for file in rows_of(tmp_path) for name in [file]}
    whole = Translations(config, ALONE).of(RECORDS, "Task")
    assert all(file.read_text() == text for file, text in before.items()) and len(rows_of(tmp_path)) == 2
    assert sum(len(file.read_text().splitlines()) for file in rows_of(tmp_path)) == 4
    assert whole == Translations(settings(folder, tmp_path / "new"), ALONE).of(RECORDS, "Task"), "whatever the batch"


def test_every_text_of_a_record_is_translated_and_pairs_are_refused(folder, tmp_path):
    choice = MultipleChoice(question=TEXTS[1], choices=(("A", TEXTS[3]), ("B", "Tom")), language="sw", answer="B")
    pair = Entailment(TEXTS[1], TEXTS[3], "sw", "neutral")
    config = settings(folder, tmp_path)
    made = Translations(config, ALONE).of([choice, pair, RECORDS[1]], "Task")
    translated = made[0].translated
    assert isinstance(translated, MultipleChoice) and [label for label, _ in translated.choices] == ["A", "B"]
    assert (
        (translated.question, translated.choices[0][1])
        == made[1].translation.texts
        == (translated.question, made[1].translated.asked_beside)
    )
    assert translated.question == made[2].translated.text and translated.language == "en"
    assert [one.translated.gold for one in made[0].options] == ["A", "B"], (
        "an option asks for itself in translation too"
    )
    with pytest.raises(UserError, match="f:9: sentence pairs have nothing to translate: take translation out"):
        Translations(config, ALONE).of([ParallelSentence("a", "b", "sw", "en", "f:9")], "Task")


def lines(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return str(path)


def test_a_data_file_is_translated_with_all_that_it_holds(folder, tmp_path, capsys):
    rows = [{"question": TEXTS[0], "answer": "17", "more": {"a": [1, None]}}, {"question": TEXTS[3], "answer": "3"}]
    named = [{"question": TEXTS[2], "lang": "German"}, {"question": TEXTS[4], "lang": "en"}]
    files = [lines(tmp_path / "sw.jsonl", rows), lines(tmp_path / "named.jsonl", named)]
    out = tmp_path / "out.jsonl"
    command = ["data", "translate", "--translator", str(folder), "--output", str(out), "--cache", str(tmp_path / "c")]
    command += ["--max-source-tokens", "60", "--max-new-tokens", "12"]
    assert main([*command, files[0], "--from", "sw"]) == 0
    read = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = texts(Translations(settings(folder, tmp_path / "d"), ALONE).of(RECORDS, "Task"))
    assert read == [{**row, "translation": text} for row, text in zip(rows, (wanted[0], wanted[3]), strict=True)]
    assert main([*command, files[1], "--into", "question"]) == 0
    assert [json.loads(line)["question"] for line in out.read_text().splitlines()] == [wanted[2], TEXTS[4]]
    capsys.readouterr()

    before = out.read_text()
    for more, said in (
        ([files[0]], "sw.jsonl:1: names no language: say which by --from"),
        ([files[1], "--from", "sw"], "named.jsonl:1: is in de as it says itself, not in sw: leave --from out"),
        ([files[0], "--from", "sw", "--field", "text"], "sw.jsonl:1: has no 'text' (keys: question, answer, more)"),
        ([files[0], "--from", "sw", "--field", "more"], "sw.jsonl:1: 'more' is dict, not text"),
        ([files[0], "--from", "sw", "--into", "answer"], "has a 'answer' already, which would be lost"),
        ([files[0], "--from", "te"], "has no code for language 'te'"),
        ([files[0], "--from", "sw", "--to", "xx"], "xx"),
        ([files[0], "--from", "sw", "--beams", "0"], "beams"),
        ([str(tmp_path / "none.jsonl"), "--from", "sw"], "none.jsonl is not a file"),
        ([lines(tmp_path / "empty.jsonl", []), "--from", "sw"], "no rows, nothing to translate"),
    ):
        assert main([*command, *more]) == 2
        told = capsys.readouterr().err.strip().splitlines()
        assert said in told[-1] and not any("Traceback" in line for line in told)
    assert out.read_text() == before, "whole or not at all"


@pytest.mark.slow
def test_two_processes_translate_a_file_as_one_does(folder, tmp_path):
    rows = [
        {"question": f"{text} {i}", "lang": code} for i in range(4) for text, code in zip(TEXTS, LANGUAGES, strict=True)
    ]
    file, made = lines(tmp_path / "in.jsonl", rows), []
    for count in (1, 2):
        out, cache = tmp_path / f"{count}.jsonl", tmp_path / f"c{count}"
        command = ["-m", "mmscale", "data", "translate", file, "--translator", str(folder), "--output", str(out)]
        more = ["--max-source-tokens", "60", "--max-new-tokens", "12", "--batch-size", "3", "--cache", str(cache)]
        ranks.run(count, [*command, *more])
        made.append(out.read_bytes())
        assert len(rows_of(cache)) == count, "both took part"
        assert sum(len(file.read_text().splitlines()) for file in rows_of(cache)) == 16
    assert made[0] == made[1] and len(made[0].splitlines()) == 20
