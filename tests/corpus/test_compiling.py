"""A compiled corpus: every row accounted for, no problem on both sides of a split, the same bytes however it was made."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import datasets
import pytest
from huggingface_hub import DatasetCard

from mmscale.cli.main import main
from mmscale.config.corpus_compile import CompileConfig
from mmscale.config.data import DataConfig
from mmscale.corpus import publishing
from mmscale.corpus.layout import shard_path
from mmscale.corpus.mixture import targets
from mmscale.corpus.rows import CorpusRow, write_rows
from mmscale.data.loading import load_records
from mmscale.errors import UserError
from mmscale.storage.locks import alone_in

WORDS = {"en": "apples", "de": "Äpfel", "sw": "matofaa"}


def row(number, code):
    text = {name: f"{number} {words}?" for name, words in WORDS.items()}
    translated = (
        {} if code == "en" else {"source_language": "en", "source_question": text["en"], "source_rationale": "so"}
    )
    return CorpusRow(
        problem=f"a-{number}", source="a", language=code, question=text[code], rationale=f"= {number}", answer=str(number), **translated
    )  # fmt: skip


def corpus(folder, more="", counts=(("en", 60), ("de", 60), ("sw", 20)), check="only: [duplicate], drop: [duplicate]"):
    for code, count in counts:
        rows = [row(number, code) for number in range(count)]
        for number, begin in enumerate(range(0, count, 25)):
            write_rows(shard_path(folder / "out", "a", code, number), rows[begin : begin + 25])
    config = folder / "corpus.yaml"
    config.write_text(
        f"output_dir: {folder}/out\nsources: [{{source: tinyworld, name: a, license: mit}}]\ncheck: {{{check}}}\n"
        f"compile: {{validation_share: 0.2, shard_rows: 40{more}}}\n",
        encoding="utf-8",
    )
    return str(config)


def made(config, *more):
    for verb in ("check", "compile"):
        assert main(["corpus", verb, config, *more]) == 0


def problems(config) -> tuple[list[Any], Any]:
    return load_records(config, ())


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_compiled_corpus_is_read_by_datasets_by_its_source_and_by_the_hub(tmp_path, capsys):
    config = corpus(tmp_path)
    twice = row(3, "de")
    write_rows(shard_path(tmp_path / "out", "a", "de", 3), [CorpusRow(**{**vars(twice), "problem": "a-100"})])
    made(config)
    folder = tmp_path / "out" / "compiled"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["account"]["a.de"] == {
        "rows": 61,
        "dropped": {"duplicate": 1},
        "left_out": {},
        "taken": 60,
        "written": 60,
    }
    splits = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in splits.items()} == {name: manifest["splits"][name]["rows"] for name in ("train", "validation")}  # fmt: skip
    sides = {name: set(split["problem"]) for name, split in splits.items()}
    assert not sides["train"] & sides["validation"] and len(sides["train"] | sides["validation"]) == 60
    assert Counter(splits["train"]["language"]) + Counter(splits["validation"]["language"]) == {
        "en": 60,
        "de": 60,
        "sw": 20,
    }
    assert splits["train"]["problem"] != sorted(splits["train"]["problem"])
    records, _ = problems(DataConfig(source="corpus", path=str(folder), languages=("sw", "de")))
    assert Counter(record.language for record in records) == {code: manifest["splits"]["train"]["languages"][code] for code in ("sw", "de")}  # fmt: skip
    assert records[0].english_question.endswith("apples?") and records[0].rationale.startswith("= ")
    card = DatasetCard.load(folder / "README.md")
    assert card.data.to_dict()["language"] == ["de", "en", "sw"] and card.data.license == "mit"
    assert "| duplicate | 141 | 1 | 1 |" in card.text and "| a.de | 61 | check duplicate: 1 | 60 | 60 |" in card.text
    assert "a.de: 61 rows, 1 left out (check duplicate), 60 taken, 60 written" in capsys.readouterr().out


def test_a_corpus_is_the_same_however_it_was_made(tmp_path, monkeypatch, capsys):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    first, second = corpus(tmp_path / "a"), corpus(tmp_path / "b")
    made(first)
    publish = publishing.publish

    def killed(*arguments):
        raise UserError("killed")

    assert main(["corpus", "check", second]) == 0
    monkeypatch.setattr(publishing, "publish", killed)
    assert main(["corpus", "compile", second, "tasks=2"]) == 2
    half = next((tmp_path / "b" / "out").glob(".compiled.*/data/train-00000*"))
    half.write_bytes(half.read_bytes()[:-50])
    monkeypatch.setattr(publishing, "publish", publish)
    assert main(["corpus", "compile", second, "tasks=5"]) == 0
    assert files(tmp_path / "a" / "out" / "compiled") == files(tmp_path / "b" / "out" / "compiled")
    changed = (tmp_path / "a" / "out" / "compiled" / "README.md").stat().st_mtime_ns
    assert main(["corpus", "compile", first]) == 0
    assert (tmp_path / "a" / "out" / "compiled" / "README.md").stat().st_mtime_ns == changed


def test_mcots_own_rows_are_written_and_read(tmp_path, capsys):
    made(corpus(tmp_path, ", form: mcot", counts=(("en", 5), ("sw", 5))), "compile.validation_share=0")
    folder = tmp_path / "out" / "compiled"
    data = folder / "data" / "train-00000-of-00001.parquet"
    for source, path in (("corpus", folder), ("mcot_math", data)):
        records, _ = problems(DataConfig(source=source, path=str(path), languages=("en", "sw")))
        assert sorted((one.language, one.question, one.rationale) for one in records) == sorted(
            (code, f"{n} {WORDS[code]}?", f"= {n}") for code in ("en", "sw") for n in range(5)
        )


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({}, {("a", "en"): 1000, ("a", "sw"): 100, ("b", "en"): 500}),
        ({"caps": {"en": 300}}, {("a", "en"): 200, ("a", "sw"): 100, ("b", "en"): 100}),
        ({"weights": {"b": 0.5}}, {("a", "en"): 1000, ("a", "sw"): 100, ("b", "en"): 250}),
        ({"weights": {"b.en": 0}}, {("a", "en"): 1000, ("a", "sw"): 100, ("b", "en"): 0}),
        # shares of en and sw go with the roots of 1600 and 100, 4 to 1: 100 rows of sw allow 400 of en
        ({"temperature": 2, "caps": {"b": 600}, "weights": {"b": 1.2}}, {("a", "en"): 250, ("a", "sw"): 100, ("b", "en"): 150}),
        ({"temperature": 2, "weights": {"b": 1.2}, "max_repeats": 2}, {("a", "en"): 500, ("a", "sw"): 200, ("b", "en"): 300}),
    ],
)  # fmt: skip
def test_mixtures_worked_out_by_hand(settings, wanted):
    available = {("a", "en"): 1000, ("a", "sw"): 100, ("b", "en"): 500}
    assert targets(available, CompileConfig(**settings))[1] == wanted


def test_caps_mixtures_and_repeats_are_exact_and_told(tmp_path, capsys):
    config = corpus(tmp_path, ", caps: {en: 30}, temperature: 2, max_repeats: 2")
    made(config, "compile.validation_share=0")
    manifest = json.loads((tmp_path / "out" / "compiled" / "manifest.json").read_text())
    account = manifest["account"]
    assert account["a.en"]["left_out"] == {"cap": 30}
    written = {code: account[f"a.{code}"]["written"] for code in WORDS}
    assert manifest["splits"]["train"]["languages"] == written and written["sw"] == 40
    frame = datasets.load_dataset(str(tmp_path / "out" / "compiled"), cache_dir=str(tmp_path / "cache"))["train"]
    assert max(Counter(frame["id"]).values()) == 2
    assert account["a.de"]["rows"] == sum(account["a.de"]["left_out"].values()) + account["a.de"]["taken"]


def test_what_is_no_whole_corpus_is_refused_in_one_sentence(tmp_path, capsys):
    config = corpus(tmp_path, counts=(("en", 30),))
    assert main(["corpus", "compile", config]) == 2
    assert "is not checked as it is now: run mmscale corpus check first" in capsys.readouterr().err
    assert main(["corpus", "check", config]) == 0
    with alone_in(tmp_path / "out"):
        assert main(["corpus", "compile", config]) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert main(["corpus", "compile", config, "compile.caps={fr: 3}"]) == 2
    assert "unknown source or language of compile.weights and compile.caps 'fr'" in capsys.readouterr().err
    assert main(["corpus", "compile", config, f"compile.folder={tmp_path}"]) == 2
    assert "is no compiled corpus and would be replaced" in capsys.readouterr().err
    made(config)
    folder = tmp_path / "out" / "compiled"
    wanted = DataConfig(source="corpus", path=str(folder), languages=("en",))
    with pytest.raises(UserError, match="has no split 'test': it has train, validation"):
        load_records(wanted.model_copy(update={"split": "test"}), ())
    file = next(folder.glob("data/train-*"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(UserError, match="is not the file that its manifest names"):
        load_records(wanted, ())
    assert main(["corpus", "compile", config]) == 0
    assert file.read_bytes() == whole
    file.unlink()
    with pytest.raises(UserError, match="is missing, which its manifest names"):
        load_records(wanted, ())
    with pytest.raises(UserError, match="is no compiled corpus"):
        load_records(wanted.model_copy(update={"path": str(tmp_path)}), ())
