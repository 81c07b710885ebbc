"""Rows in other languages: every translator gives what its library gives, and kills, tasks and faults change no row."""

from __future__ import annotations

import copy
import errno
import json
import shutil
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import M2M100Tokenizer

from mmscale import registry
from mmscale.cli.main import main
from mmscale.config.corpus_translate import TranslateConfig
from mmscale.config.translation import TranslationConfig
from mmscale.corpus.rows import read_rows
from mmscale.corpus.translate import batches
from mmscale.corpus.translators.base import PassageTranslator
from mmscale.errors import UserError
from mmscale.storage import files
from mmscale.storage.locks import alone_in
from mmscale.translation.translator import Translated, load_translator
from tests.translation.tiny import m2m100, m2m100_tokenizer, nllb, t5

TEXTS = ("Anna has 12 mangos.", "Tom buys 5 books and 7 eggs. How many now?", "mbili na moja ni tatu")
ROWS = [
    {"question": f"Tom has {n} eggs. How many are {n} and 2?", "answer": str(n + 2), "rationale": f"It is {n}+2 = <<{n}+2={n + 2}>>{n + 2}.\n#### {n + 2}"}
    for n in range(7)
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """An NLLB of random weights, and the same for CTranslate2."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "nllb").mkdir()
    nllb(folder / "nllb", "swh_Latn", "kor_Hang", "eng_Latn")
    assert main(["convert", str(folder / "nllb"), str(folder / "ct2"), "--to", "ctranslate2"]) == 0
    return folder


def test_a_translator_that_is_not_told_the_language_is_refused_where_there_are_two(tmp_path, capsys):
    endpoint = {"url": "http://127.0.0.1:9/v1", "prompt": "In Swahili: {text}"}
    assert (
        main(["corpus", "translate", corpus(tmp_path, {"backend": "openai", "model": "m", "endpoint": endpoint})]) == 2
    )
    said = capsys.readouterr().err.replace("\n", " ")
    assert "m would be asked the same for 'sw' and 'ko': its prompt or prefix has to name the language" in said


def test_a_model_of_ours_that_is_not_there_is_told_by_its_folder(tmp_path, capsys):
    assert main(["corpus", "translate", corpus(tmp_path, {"backend": "model", "model": "nowhere/model"})]) == 2
    assert "translate.model=nowhere/model is no folder of a model of ours" in capsys.readouterr().err.replace("\n", " ")


class Killed(Exception):
    """What ends a command in the middle."""


class Shouting(PassageTranslator):
    """A translator of tests: capital letters, every "mangos" lost; it breaks off behind `most` batches."""

    most = 1 << 30
    asked: list[str] = []

    def require(self):
        if self.target == "fi":
            raise UserError("the model's tokenizer has no code for language 'fi': leave that language out")

    @property
    def identity(self):
        return "shouting"

    def translate(self, texts):
        if not Shouting.most:
            raise Killed
        Shouting.most -= 1
        Shouting.asked += texts
        yield from enumerate(Translated(text.upper().replace("[", "(")) for text in texts)


@pytest.fixture
def shouting(monkeypatch):
    monkeypatch.setitem(registry.KINDS["translators"].built_in, "shouting", f"{__name__}:Shouting")
    monkeypatch.setattr(Shouting, "most", 1 << 30)
    monkeypatch.setattr(Shouting, "asked", [])
    return Shouting


def corpus(folder, translate, name="out", **more):
    """A configuration of the seven rows in Swahili and Korean, in shards of three."""
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    values = {
        "output_dir": str(folder / name),
        "sources": [{"name": "eggs", "source": "table", "path": str(data)}],
        "languages": ["sw", "ko"],
        "shard_rows": 3,
        "translate": {"batch_tokens": 60, **translate},
        **more,
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    return str(path)


def made(folder, language):
    files = sorted((folder / "rows" / "eggs" / language).glob("*.jsonl.gz"))
    return [row for file in files for row in read_rows(file)]


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in (folder / "rows").rglob("*.jsonl.gz")}


@pytest.mark.parametrize("beams", [1, 3])
def test_ctranslate2_is_transformers_own_generate(model, beams):
    settings = {"beams": beams, "max_new_tokens": 12, "max_source_tokens": 60}
    config = TranslateConfig(backend="ctranslate2", model=str(model / "ct2"), dtype="float32", **settings)
    fast = registry.get("translators", "ctranslate2")(config, "en", "sw")
    ours = dict(fast.translate(TEXTS))
    plain = load_translator(TranslationConfig(path=str(model / "nllb"), target="sw", **settings), torch.device("cpu"))
    theirs = [plain.translate([text], ["en"])[0] for text in TEXTS]
    assert [ours[i] for i in range(3)] == theirs
    assert len({one.text for one in theirs}) > 1
    assert fast.lengths(TEXTS) == [len(one.ids) for one in plain.tokenizer.encode(TEXTS, ["en"] * 3)]


def as_both(folder, source, target, texts, **settings):
    """What CTranslate2 and transformers make of texts."""
    assert main(["convert", str(folder / "own"), str(folder / "ct2"), "--to", "ctranslate2"]) == 0
    settings = {"max_new_tokens": 12, "max_source_tokens": 60, **settings}
    config = TranslateConfig(backend="ctranslate2", model=str(folder / "ct2"), dtype="float32", **settings)
    fast = registry.get("translators", "ctranslate2")(config, source, target)
    fast.require()
    plain = load_translator(TranslationConfig(path=str(folder / "own"), target=target, **settings), torch.device("cpu"))
    return [made for _, made in fast.translate(texts)], [plain.translate([text], [source])[0] for text in texts]


def test_ctranslate2_is_transformers_for_t5_and_m2m100_too(tmp_path, tinyworld_tokenizers, capsys):
    for name in ("t5", "m2m100"):
        (tmp_path / name / "own").mkdir(parents=True)
    tokenizer = copy.deepcopy(tinyworld_tokenizers[1])
    t5(tmp_path / "t5" / "own", tokenizer)
    assert main(["convert", str(tmp_path / "t5" / "own"), str(tmp_path / "t5" / "ct2"), "--to", "ctranslate2"]) == 2
    assert "has no token for what it does not know" in capsys.readouterr().err
    tokenizer.unk_token = tokenizer.pad_token
    t5(tmp_path / "t5" / "own", tokenizer)
    fast, plain = as_both(tmp_path / "t5", "en", "sw", TEXTS, prefix="to {target}: ")
    assert fast == plain and len({one.text for one in plain}) > 1
    own = tmp_path / "m2m100" / "own"
    tokenizer = M2M100Tokenizer.from_pretrained(m2m100_tokenizer(own))
    m2m100(own, tokenizer.get_lang_id("zu") + 9)
    fast, plain = as_both(
        tmp_path / "m2m100", "sw", "de", ["mbili na moja ni tatu", "ni moja", "na tatu na mbili"], beams=2
    )
    assert fast == plain and any(one.text for one in plain)


def test_rows_are_translated_from_the_command_line_into_every_language(model, tmp_path, capsys):
    config = corpus(
        tmp_path, {"backend": "ctranslate2", "model": str(model / "ct2"), "max_new_tokens": 9, "max_source_tokens": 60}
    )
    assert main(["corpus", "translate", config]) == 0
    out = tmp_path / "out"
    for code in ("sw", "ko"):
        rows = made(out, code)
        assert [row.id for row in rows] == [f"eggs-{n}.{code}" for n in range(7)]
        assert [(row.source_question, row.answer, row.source_language) for row in rows] == [
            (row["question"], row["answer"], "en") for row in ROWS
        ]
        assert all(row.question and row.rationale.endswith(f"\n#### {row.answer}") for row in rows)
        assert all("<<0+2=2>>" in row.rationale for row in rows[:1])
    assert rows[0].translation.model == str(model / "ct2") and rows[0].translation.lost_marks
    assert "eggs into sw: 7 rows of" in capsys.readouterr().err
    assert {row.question for row in made(out, "sw")} != {row.question for row in made(out, "ko")}
    assert main(["corpus", "translate", config, "translate.beams=2"]) == 2
    assert "holds translations of other settings" in capsys.readouterr().err
    slow = corpus(
        tmp_path,
        {"backend": "transformers", "model": str(model / "nllb"), "max_new_tokens": 9, "max_source_tokens": 60},
        "slow",
    )
    exact = corpus(
        tmp_path,
        {
            "backend": "ctranslate2",
            "model": str(model / "ct2"),
            "max_new_tokens": 9,
            "max_source_tokens": 60,
            "dtype": "float32",
        },
        "exact",
    )
    assert main(["corpus", "translate", slow]) == main(["corpus", "translate", exact]) == 0
    assert [row.rationale for row in made(tmp_path / "slow", "ko")] == [
        row.rationale for row in made(tmp_path / "exact", "ko")
    ]


def test_a_translator_names_the_keys_of_a_corpus(model, tmp_path, capsys):
    config = corpus(tmp_path, {"backend": "transformers", "model": str(model / "nllb")}, languages=["sw"])
    assert main(["corpus", "translate", config]) == 2
    assert "translate.max_source_tokens=512 exceeds the 64 positions of" in capsys.readouterr().err.replace("\n", " ")


def test_kills_and_the_number_of_tasks_change_nothing(shouting, tmp_path):
    config = corpus(tmp_path, {"backend": "shouting", "model": "-"})
    whole = corpus(tmp_path, {"backend": "shouting", "model": "-"}, "whole")
    assert main(["corpus", "translate", whole]) == 0
    needed = len(shouting.asked)
    shouting.asked = []
    for most in (0, 1, 2, 3):
        shouting.most = most
        with pytest.raises(Killed):
            main(["corpus", "translate", config, f"tasks={1 + most % 3}"])
    shouting.most = 1 << 30
    assert main(["corpus", "translate", config, "tasks=3"]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(shouting.asked) == needed
    row = made(tmp_path / "out", "sw")[3]
    assert (
        row.question == "TOM HAS 3 EGGS. HOW MANY ARE 3 AND 2?" and row.rationale == "IT IS 3+2 = <<3+2=5>>5.\n#### 5"
    )
    assert row.translation.restored_marks == ("<<3+2=5>>",) and row.translation.lost_marks == ()


def test_a_row_may_be_translated_as_one_text(shouting, tmp_path):
    config = corpus(
        tmp_path, {"backend": "shouting", "model": "-", "unit": "row", "placeholder": "<{n}>>"}, languages=["sw"]
    )
    assert main(["corpus", "translate", config]) == 0
    assert len(shouting.asked) == 7 and all("\n\n<1>>\n\n" in text for text in shouting.asked)
    row = made(tmp_path / "out", "sw")[3]
    assert (row.question, row.rationale) == ("TOM HAS 3 EGGS. HOW MANY ARE 3 AND 2?", "IT IS 3+2 = <<3+2=5>>5.\n#### 5")


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["languages=[fi]"], "language 'fi' has no line that states an answer here"),
        (["languages=[fi]", "translate.answer_phrases={fi: 'Vastaus: {answer}'}"], "no code for language 'fi'"),
        (["languages=[koreen]"], "did you mean 'ko' (Korean)"),
        (["translate=null"], "say what translates in translate"),
        (["translate.backend=shoutin"], "did you mean 'shouting'"),
        (["translate.temperature=1", "translate.backend=ctranslate2"], "would depend on its neighbours"),
        (["translate.backend=ctranslate2"], "mmscale convert MODEL FOLDER --to ctranslate2"),
        (["translate.placeholder=n"], "names {n} once"),
    ],
)
def test_what_cannot_be_translated_is_told_in_one_sentence(shouting, tmp_path, capsys, overrides, told):
    assert main(["corpus", "translate", corpus(tmp_path, {"backend": "shouting", "model": "-"}), *overrides]) == 2
    assert told in capsys.readouterr().err
    assert shouting.asked == []


def test_two_jobs_and_half_written_shards_are_told(shouting, tmp_path, capsys):
    config = corpus(tmp_path, {"backend": "shouting", "model": "-"})
    with alone_in(tmp_path / "out"):
        assert main(["corpus", "translate", config]) == 2
    assert "out is in use by process" in capsys.readouterr().err
    with alone_in(tmp_path / "out" / "work" / "translate" / "eggs.sw.00000"):
        assert main(["corpus", "translate", config]) == 2
    assert "eggs.sw.00000 is in use by process" in capsys.readouterr().err
    half = tmp_path / "out" / "rows" / "eggs" / "en" / "00001.jsonl.gz"
    half.write_bytes(half.read_bytes()[:-30])
    assert main(["corpus", "translate", config]) == 2
    assert "00001.jsonl.gz cannot be read behind line" in capsys.readouterr().err
    shutil.rmtree(half.parent.parent)
    assert main(["corpus", "translate", config]) == 0


def test_a_model_of_ours_translates_by_its_prompt_and_samples_each_text_by_itself():
    config = TranslateConfig(
        backend="model", model="tinyworld:llm", prompt="tinyworld_translation", max_new_tokens=5, temperature=1
    )
    translator = registry.get("translators", "model")(config, "en", "sw")
    translator.require()
    together, alone = dict(translator.translate(TEXTS)), dict(translator.translate(TEXTS[1:]))
    assert [together[1], together[2]] == [alone[0], alone[1]]
    greedy = registry.get("translators", "model")(config.model_copy(update={"temperature": 0.0}), "en", "sw")
    assert dict(greedy.translate(TEXTS)).keys() == {0, 1, 2}
    wrong = registry.get("translators", "model")(config.model_copy(update={"prompt": "alpaca"}), "en", "sw")
    with pytest.raises(UserError, match="alpaca"):
        wrong.require()


def test_batches_hold_every_text_once_and_no_more_tokens_than_allowed():
    lengths = {"a": 5, "b": 3, "c": 3, "d": 1, "e": 100}
    assert list(batches(lengths, 9)) == [["e"], ["a"], ["b", "c", "d"]]


class Endpoint(BaseHTTPRequestHandler):
    """Chat completions in capital letters; `faults` come first."""

    faults: list[int] = []
    seen: list[dict] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Endpoint.seen.append(body)
        fault = Endpoint.faults.pop(0) if Endpoint.faults else 200
        if fault == 0:
            self.connection.close()
            return
        text = body["messages"][0]["content"].split("\n\n", 1)[-1].upper()
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        content = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        raw = json.dumps(content if fault == 200 else {"error": {"message": "busy"}}).encode()
        self.send_response(fault)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(Endpoint, "faults", [])
    monkeypatch.setattr(Endpoint, "seen", [])
    monkeypatch.setattr("mmscale.corpus.translators.endpoint._PAUSE_S", 0.01)
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_an_endpoint_is_asked_again_until_patience_ends_and_the_same_command_goes_on(endpoint, tmp_path, capsys):
    asked = {
        "backend": "openai",
        "model": "m",
        "endpoint": {"url": endpoint, "patience_s": 0.2, "requests_in_flight": 2},
    }
    config = corpus(tmp_path, asked, languages=["sw"])
    Endpoint.faults = [429, 500, 0, 200, 200, 503, *[500] * 200]
    assert main(["corpus", "translate", config]) == 2
    told = capsys.readouterr().err
    assert "longer than translate.endpoint.patience_s=0.2: what is translated is kept" in told
    before = len(Endpoint.seen)
    Endpoint.faults = [401]
    assert main(["corpus", "translate", config]) == 2
    assert "refuses to translate with 'm'" in capsys.readouterr().err
    Endpoint.faults, Endpoint.seen = [], []
    assert main(["corpus", "translate", config]) == 0
    assert before > 5 and len(Endpoint.seen) <= 5, "of seven rows two were answered before"
    first = Endpoint.seen[0]
    assert first["max_tokens"] == 512 and "from English to Swahili" in first["messages"][0]["content"]
    row = made(tmp_path / "out", "sw")[6]
    assert (row.question, row.rationale) == ("TOM HAS 6 EGGS. HOW MANY ARE 6 AND 2?", "IT IS 6+2 = <<6+2=8>>8.\n#### 8")


def test_a_dry_run_says_what_is_missing_and_changes_nothing(shouting, tmp_path, capsys):
    config = corpus(tmp_path, {"backend": "shouting", "model": "-"}, languages=["en", "sw", "fi"])
    assert main(["corpus", "run", config, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "source eggs (English): ready, begins" in said and "eggs into Swahili: ready, by shouting with -" in said
    assert "eggs into Finnish: missing: language 'fi' has no line" in said and not (tmp_path / "out").exists()
    assert main(["corpus", "translate", "configs/corpus/mcot-math.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert (
        "metamath into Bengali, German, Spanish, French, Japanese, Russian, Swahili, Telugu, Thai, Chinese: missing"
        in said
    )


def test_a_full_disk_is_told_and_nothing_is_lost(shouting, tmp_path, capsys, monkeypatch):
    config = corpus(tmp_path, {"backend": "shouting", "model": "-"}, languages=["sw"])
    append, room = files.append_lines, [2]

    def full(path, lines):
        room[0] -= 1
        if room[0] < 0:
            raise files.cannot_write(path, OSError(errno.ENOSPC, "No space left on device"))
        append(path, lines)

    monkeypatch.setattr("mmscale.translation.cache.append_lines", full)
    assert main(["corpus", "translate", config]) == 2
    assert "No space left on device; free space" in capsys.readouterr().err
    room[0], asked = 1 << 30, set(shouting.asked)
    assert main(["corpus", "translate", config]) == 0
    assert len(made(tmp_path / "out", "sw")) == 7 and asked


@pytest.mark.slow
def test_a_killed_command_of_three_workers_goes_on_to_the_same_rows(model, tmp_path):
    """Killed behind its first shard, and behind some more; tasks in processes of their own."""
    settings = {"backend": "ctranslate2", "model": str(model / "ct2"), "max_new_tokens": 40, "max_source_tokens": 60}
    whole = corpus(tmp_path, settings, "whole", shard_rows=1)
    assert main(["corpus", "translate", whole]) == 0
    config = corpus(tmp_path, settings, shard_rows=1)
    command = [sys.executable, "-m", "mmscale", "corpus", "translate", config, "tasks=3", "workers=3"]
    for shards in (1, 6):
        process = subprocess.Popen(command, start_new_session=True)
        while len(list((tmp_path / "out").glob("rows/eggs/*/*.counts.json"))) < shards and process.poll() is None:
            time.sleep(0.002)
        assert process.poll() is None, "it was killed before its end"
        process.kill()  # its workers end what they have begun, and its lock is free
        process.wait()
    while (again := subprocess.run(command, check=False, capture_output=True, text=True)).returncode:
        assert "is in use by process" in again.stderr and "out/work/translate" in again.stderr.replace(
            str(tmp_path), ""
        )
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_key_is_read_from_the_environment_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = corpus(tmp_path, {"backend": "openai", "model": "gpt"}, languages=["sw"])
    assert main(["corpus", "translate", config]) == 2
    assert "environment variable OPENAI_API_KEY is not set" in capsys.readouterr().err
    assert main(["corpus", "translate", config, "translate.endpoint.key_variable=sk-123"]) == 2
    assert "name an environment variable" in capsys.readouterr().err
