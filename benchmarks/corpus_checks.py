"""The checks of a corpus, judged like classifiers: mmscale bench corpus-checks [--stories N] [--data FOLDER] [--json]

Exact translations of tinyworld's problems get twelve kinds of fault, each in one row of fifty, and go through `mmscale corpus
check`. Recall of a kind: the share of its rows that a check for it flags. Precision: the share of the rows which these checks flag
that have a fault which shows that way. With --data, public files: faults that are known by reading, and parallel text of
professional translators (NTREX-128), in which findings are false alarms.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmscale.config.corpus import CorpusConfig
from mmscale.config.data import DataConfig
from mmscale.corpus.checking import CHECKED, DROPPED, FLAGS
from mmscale.corpus.layout import shard_path
from mmscale.corpus.pipeline import run_steps
from mmscale.corpus.rows import CorpusRow, read_rows, write_rows
from mmscale.data import filters
from mmscale.data.loading import load_records
from mmscale.languages import MGSM_LANGUAGES
from mmscale.tinyworld import grammar

from .recording import record

Flags = dict[str, set[str]]
"""Id of a row -> names of the checks that flag it."""
EVERY = 50
"""One row of so many has a given fault."""
LANGUAGES = tuple(code for code in MGSM_LANGUAGES if code != "en")
_EQUATION = re.compile(r"(\d+[-+*]\d+)=(\d+)")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Faulty:
    """A row that a fault is put into, and what it may be made of."""

    row: CorpusRow
    story: grammar.Story
    other: CorpusRow
    """Another row of the language."""
    chance: random.Random


def _marked(text: str, number: int) -> str:
    """A rationale as GSM8K writes it, in LaTeX, or as it is."""
    form = (r"\1=<<\1=\2>>\2", r"\\(\1=\2\\)", r"\1=\2")[number % 3]
    return _EQUATION.sub(form, text)


def exact_row(story: grammar.Story, number: int, code: str) -> CorpusRow:
    """An exact translation."""
    return CorpusRow(
        problem=f"tinyworld-{number}",
        source="tinyworld",
        language=code,
        question=grammar.question(story, code),
        rationale=_marked(grammar.rationale(story, code), number),
        answer=str(story.answer),
        source_language="en",
        source_question=grammar.question(story, "en"),
        source_rationale=_marked(grammar.rationale(story, "en"), number),
    )


def _other_number(match: re.Match[str], chance: random.Random, *but: str) -> str:
    return next(text for text in iter(lambda: str(chance.randint(2, 99)), "") if text not in (match[0], *but))


def _replaced(text: str, match: re.Match[str], by: str) -> str:
    return text[: match.start()] + by + text[match.end() :]


def wrong_number(one: Faulty) -> CorpusRow:
    match = one.chance.choice(list(_NUMBER.finditer(one.row.question)))
    changed = _other_number(match, one.chance, one.row.answer or "")
    return replace(one.row, question=_replaced(one.row.question, match, changed))


def _places(text: str, story: grammar.Story, code: str) -> list[tuple[int, int]]:
    """Begin and end of each sentence of the story in a question or rationale, and of what follows them."""
    stop = grammar.lexicon(code).get("full_stop", ".")
    begins, place = [], 0
    for sentence in grammar.sentences(story, code):
        place = text.index(sentence.removesuffix(stop) if stop else sentence, place)
        begins.append(place)
        place += 1
    ask = grammar.question(story, code)[-3:]
    end = text.rindex(ask) if text.endswith(ask) else len(text)
    return list(zip(begins, [*begins[1:], end], strict=True))


def dropped_sentence(one: Faulty) -> CorpusRow:
    """One but the last, which would be a text that stops before its end."""
    part = one.chance.choice(("question", "rationale"))
    text = getattr(one.row, part)
    begin, end = one.chance.choice(_places(text, one.story, one.row.language)[:-1])
    return replace(one.row, **{part: text[:begin] + text[end:]})


def untranslated_sentence(one: Faulty) -> CorpusRow:
    number = one.chance.randrange(len(one.story.steps) + 1)
    text = one.row.question
    begin, end = _places(text, one.story, one.row.language)[number]
    english = grammar.sentences(one.story, "en")[number]
    if number == len(one.story.steps):  # what follows is the question asked
        end = begin + len(grammar.sentences(one.story, one.row.language)[number])
    return replace(one.row, question=f"{text[:begin]}{english} {text[end:]}".strip())


def wrong_language(one: Faulty) -> CorpusRow:
    code = one.chance.choice([code for code in LANGUAGES if code != one.row.language])
    instead = exact_row(one.story, _number(one.row), code)
    return replace(one.row, question=instead.question, rationale=instead.rationale)


def truncated(one: Faulty) -> CorpusRow:
    text = one.row.rationale
    return replace(one.row, rationale=text[: int(len(text) * one.chance.uniform(0.3, 0.8))].rstrip(" .。।"))


def loop(one: Faulty) -> CorpusRow:
    words = one.row.question.split()
    place = one.chance.randrange(len(words))
    stuck = words[place : place + one.chance.randint(1, 4)]
    times = max(8, 40 // len(" ".join(stuck)))
    return replace(one.row, question=" ".join([*words[:place], *stuck * times]))


def leaked_solution(one: Faulty) -> CorpusRow:
    if one.chance.random() < 0.5:
        leaked = grammar.lexicon(one.row.language)["answer"].format(answer=one.row.answer)
    else:
        begin, end = _places(one.row.rationale, one.story, one.row.language)[-1]
        leaked = one.row.rationale[begin:end]
    return replace(one.row, question=f"{one.row.question} {leaked}")


def wrong_final_answer(one: Faulty) -> CorpusRow:
    match = list(_NUMBER.finditer(one.row.rationale))[-1]
    return replace(one.row, rationale=_replaced(one.row.rationale, match, _other_number(match, one.chance)))


def false_equation(one: Faulty) -> CorpusRow:
    match = one.chance.choice(
        list(re.finditer(r"(?<=\d=)\d+(?!\d|>>)", one.row.rationale))
        or list(re.finditer(r"(?<=>>)\d+", one.row.rationale))
    )
    if one.row.rationale[match.start() - 1] == ">":
        match = one.chance.choice(list(re.finditer(r"(?<=\d=)\d+(?=>>)", one.row.rationale)))
    return replace(one.row, rationale=_replaced(one.row.rationale, match, _other_number(match, one.chance)))


def broken_mark(one: Faulty) -> CorpusRow:
    marks = list(re.finditer(r"<<|>>|\\\(|\\\)", one.row.rationale))
    if not marks:
        return replace(one.row, rationale=one.row.rationale + r" \boxed{" + (one.row.answer or ""))
    match = one.chance.choice(marks)
    return replace(
        one.row, rationale=_replaced(one.row.rationale, match, match[0][:1] if one.chance.random() < 0.5 else "")
    )


def duplicate(one: Faulty) -> CorpusRow:
    """Another row once more, with other spaces."""
    return replace(one.other, problem=one.row.problem, question=one.other.question.replace(" ", "  ") + " ")


def swapped_rationale(one: Faulty) -> CorpusRow:
    return replace(one.row, rationale=one.other.rationale)


@dataclass(frozen=True)
class FaultKind:
    """A kind of fault."""

    make: Callable[[Faulty], CorpusRow]
    checks: frozenset[str]
    """Those that are for it."""
    shows: frozenset[str] = frozenset()
    """Others that rightly see it."""


def _kind(make: Callable[[Faulty], CorpusRow], checks: str, shows: str = "") -> FaultKind:
    return FaultKind(make, frozenset(checks.split()), frozenset(shows.split()))


KINDS: dict[str, FaultKind] = {
    "wrong number": _kind(wrong_number, "numbers"),
    "dropped sentence": _kind(dropped_sentence, "numbers", "length_ratio marks"),
    "untranslated sentence": _kind(untranslated_sentence, "untranslated", "language script length_ratio"),
    "wrong language": _kind(wrong_language, "language script", "length_ratio truncated"),
    "truncated": _kind(truncated, "truncated", "numbers final_answer marks length_ratio equations"),
    "loop": _kind(loop, "repetition", "length_ratio truncated numbers language script"),
    "leaked solution": _kind(leaked_solution, "leaked_solution", "numbers marks length_ratio truncated"),
    "wrong final answer": _kind(wrong_final_answer, "final_answer", "numbers"),
    "false equation": _kind(false_equation, "equations", "numbers marks"),
    "broken mark": _kind(broken_mark, "marks", "numbers equations truncated length_ratio final_answer"),
    "duplicate": _kind(duplicate, "duplicate"),
    "swapped rationale": _kind(swapped_rationale, "numbers final_answer", "length_ratio marks truncated"),
}


def _number(row: CorpusRow) -> int:
    return int(row.problem.split("-")[1])


def faulty_rows(
    stories: int, seed: int, languages: Sequence[str] = LANGUAGES, every: int = EVERY
) -> tuple[list[CorpusRow], dict[str, str]]:
    """(rows of all languages, id -> kind of fault); one row in `every` has a given kind."""
    rows: list[CorpusRow] = []
    kinds: dict[str, str] = {}
    told = list(grammar.stories(stories, seed, "train"))
    names = list(KINDS)
    for code in languages:
        exact = [exact_row(story, number, code) for number, story in enumerate(told)]
        drawn = [random.Random(f"{seed} {row.id}").randrange(every) for row in exact]
        clean = [row for row, one in zip(exact, drawn, strict=True) if one >= len(names)]
        for number, row in enumerate(exact):
            chance = random.Random(f"{seed} fault {row.id}")
            if drawn[number] < len(names):
                earlier = [
                    one for one in clean if _number(one) < number
                ]  # of two equal rows the later is the duplicate
                name, other = names[drawn[number]], chance.choice(earlier or clean)
                row = KINDS[name].make(Faulty(row, told[number], other, chance))
                kinds[row.id] = name
            rows.append(row)
    return rows, kinds


def flags_of(
    rows: Iterable[CorpusRow], languages: Sequence[str], only: Sequence[str] = ()
) -> tuple[Flags, dict[str, CorpusRow]]:
    """What `mmscale corpus check` flags, and the rows as it leaves them."""
    by_language: dict[str, list[CorpusRow]] = defaultdict(list)
    for row in rows:
        by_language[row.language].append(row)
    flags, judged = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for code, some in by_language.items():
            for number, begin in enumerate(range(0, len(some), 1000)):
                write_rows(shard_path(Path(folder), "bench", code, number), some[begin : begin + 1000])
        config = {
            "output_dir": folder,
            "sources": [{"source": "tinyworld"}],
            "languages": list(languages),
            "check": {"only": list(only)},
        }
        run_steps(CorpusConfig.model_validate(config), ["check"])
        for kind in (CHECKED, DROPPED):
            for file in sorted(Path(folder, kind).glob("*/*/*.jsonl.gz")):
                for row in read_rows(file):
                    flags[row.id], judged[row.id] = set(row.notes[FLAGS]), row
    return flags, judged


def scored(flags: Flags, kinds: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Precision and recall of each kind."""
    table: dict[str, dict[str, Any]] = {}
    for name, kind in KINDS.items():
        mine = [row for row, of in kinds.items() if of == name]
        seen = [row for row in mine if flags[row] & kind.checks]
        pointed = [(row, check) for row, checks in flags.items() for check in checks & kind.checks]
        right = sum(check in _shown(kinds.get(row)) for row, check in pointed)
        table[name] = {
            "rows": len(mine),
            "checks": sorted(kind.checks),
            "recall": len(seen) / len(mine) if mine else None,
            "precision": right / len(pointed) if pointed else None,
            "missed": [row for row in mine if row not in set(seen)][:5],
            "false_alarms": [f"{row} {check}" for row, check in pointed if check not in _shown(kinds.get(row))][:5],
        }
    return table


def _shown(name: str | None) -> frozenset[str]:
    return KINDS[name].checks | KINDS[name].shows if name is not None else frozenset()


def judge(stories: int, languages: Sequence[str] = LANGUAGES, every: int = EVERY) -> dict[str, Any]:
    """The checks against faults that were put in."""
    rows, kinds = faulty_rows(stories, 0, languages, every)
    flags, _ = flags_of(rows, LANGUAGES)
    clean = [row for row in flags if row not in kinds]
    alarms = Counter(check for row in clean for check in flags[row])
    return {"rows": len(rows), "clean": len(clean), "alarms_on_clean": dict(alarms), "kinds": scored(flags, kinds)}


KNOWN_LEAKS = {"ja": (3300, 5899), "zh": (3078, 5038), "de": (7438,)}
KNOWN_LOOPS = {"ru": (4290,), "sw": (5985,)}
OTHER_LANGUAGE = (2597, 2598, 4095)
"""Rows of GSM8KInstruct's English file whose answers are Spanish and French."""
MERGED = {"th": (260, 263, 267, 268, 271), "bn": (364, 365, 368, 376)}
"""Rows of MSVAMP with one translation."""


STRIDE = 20
"""One row in so many is looked at of files where no fault is known."""


def gsmtrans_rows(data: Path) -> list[CorpusRow]:
    """Questions of gsmtrans with their originals; lines count from 0."""
    rows = []
    for folder in sorted((data / "gsmtrans").glob("*-en")):
        code = folder.name.removesuffix("-en")
        lines = zip(_lines(folder / f"train.{code}"), _lines(folder / "train.en"), strict=True)
        rows += [_question(f"gsmtrans-{i}", code, text, original) for i, (text, original) in enumerate(lines)]
    return rows


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _question(problem: str, code: str, text: str, original: str) -> CorpusRow:
    return CorpusRow(
        problem=problem, source="bench", language=code, question=text, source_language="en", source_question=original
    )


def on_gsmtrans(data: Path) -> dict[str, Any]:
    """Faults of gsmtrans that are known by reading: (found, all)."""
    known = {
        f"gsmtrans-{i}.{code}"
        for faults in (KNOWN_LEAKS, KNOWN_LOOPS)
        for code, places in faults.items()
        for i in places
    }
    every = gsmtrans_rows(data)
    same = [row for row in every if row.question.strip() == (row.source_question or "").strip()]
    copied = {row.id for row in same}
    others = [row for row in every if row.id not in copied and (row.id in known or _number(row) % STRIDE == 0)]
    rows = [*same, *others]
    flags, _ = flags_of(rows, sorted({row.language for row in rows}))
    untranslated: dict[str, list[int]] = {}
    for row in same:
        count = untranslated.setdefault(row.language, [0, 0])
        count[0] += bool(flags[row.id] & {"untranslated", "language", "script"})
        count[1] += 1
    leaks = [f"gsmtrans-{i}.{code}" for code, places in KNOWN_LEAKS.items() for i in places]
    loops = [f"gsmtrans-{i}.{code}" for code, places in KNOWN_LOOPS.items() for i in places]
    per_language = {
        code: _rates([row for row in others if row.language == code], flags)
        for code in sorted({row.language for row in others})
    }
    return {
        "rows": len(rows),
        "untranslated": untranslated,
        "leaked_solution": [sum("leaked_solution" in flags[row] for row in leaks), len(leaks)],
        "repetition": [sum("repetition" in flags[row] for row in loops), len(loops)],
        "others_flagged": per_language,
    }


def _rates(rows: Sequence[CorpusRow], flags: Flags) -> dict[str, int]:
    counts = Counter(check for row in rows for check in flags[row.id])
    return {"rows": len(rows), **dict(counts.most_common())}


def on_gsm8kinstruct(data: Path) -> dict[str, Any]:
    """Answers in other languages in the English file, and questions that stand there again."""
    rows = [
        CorpusRow(
            problem=f"instruct-{i}", source="bench", language="en", question=row["question"], rationale=row["answer"]
        )
        for i, row in enumerate(map(json.loads, _lines(data / "gsm8kinstruct" / "en" / "train.txt")))
        if i in OTHER_LANGUAGE or i % STRIDE == 0
    ]
    flags, _ = flags_of(rows, ["en", "es", "fr"])
    return {
        "other language": [sum("language" in flags[f"instruct-{i}.en"] for i in OTHER_LANGUAGE), len(OTHER_LANGUAGE)],
        "flagged": _rates(rows, flags),
    }


def on_msvamp(data: Path) -> dict[str, Any]:
    """Problems of one translation, by the checks; golds that are wrong and relations that are corrupt, by the filters of files."""
    rows = []
    for code in MERGED:
        config = DataConfig(source="msvamp", path=str(data / "msvamp"), languages=(code,), split="test")
        rows += [
            _question(f"msvamp-{i}", code, record.text, record.english or "")
            for i, record in enumerate(load_records(config, (code,))[0])
        ]
    flags, _ = flags_of(rows, list(MERGED))
    merged = [f"msvamp-{i}.{code}" for code, places in MERGED.items() for i in places]
    counts = {"merged_questions": [sum("merged_questions" in flags[row] for row in merged), len(merged)]}
    wrong = filters.get("wrong_gold")
    for code in ("en", "th"):
        config = DataConfig(source="msvamp", path=str(data / "msvamp"), languages=(code,), split="test")
        counts[f"wrong_gold {code}"] = [
            len(wrong(load_records(config, (code,))[0], "msvamp")),
            len(filters.MSVAMP_WRONG_GOLD),
        ]
    corrupt = filters.get("corrupt_relation")
    for code, many in (("th", 250), ("tr", 51), ("sw", 37)):
        config = DataConfig(source="xcopa", path=str(data / "xcopa" / "human"), languages=(code,), split="test")
        counts[f"corrupt_relation {code}"] = [len(corrupt(load_records(config, (code,))[0], "xcopa")), many]
    return counts


NTREX = {
    "arb": "ar", "ben": "bn", "bul": "bg", "deu": "de", "ell": "el", "fra": "fr", "hin": "hi", "ita": "it", "jpn": "ja", "nld": "nl",
    "pol": "pl", "por": "pt", "rus": "ru", "spa": "es", "swa": "sw", "tel": "te", "tha": "th", "tur": "tr", "urd": "ur", "vie": "vi",
    "zho-CN": "zh",
}  # fmt: skip
_CONVERTED = re.compile(
    r"\b(?:miles?|mph|feet|foot|inch(?:es)?|yards?|pounds?|lbs?|acres?|degrees|gallons?|stone|ft)\b|-(?:foot|inch|mile|yard|pound|acre)"
)


def on_ntrex(data: Path, whole: bool = False) -> dict[str, Any]:
    """Findings in professional translations, per check and language; `numbers` without rows whose units may be converted.

    Of each of 21 languages every 21st line, so that 1,997 rows are looked at; `whole`: all of them.
    """
    folder = data / "parallel" / "ntrex"
    originals = _lines(folder / "newstest2019-src.eng.txt")
    rows = []
    for place, (name, code) in enumerate(NTREX.items()):
        lines = list(enumerate(zip(_lines(folder / f"newstest2019-ref.{name}.txt"), originals, strict=True)))
        rows += [_question(f"ntrex-{i}", code, *pair) for i, pair in (lines if whole else lines[place :: len(NTREX)])]
    flags, _ = flags_of(rows, sorted(NTREX.values()))
    counts: dict[str, Counter[str]] = {code: Counter() for code in NTREX.values()}
    for row in rows:
        for check in flags[row.id]:
            counts[row.language][check] += 1
            if check == "numbers" and not _CONVERTED.search(row.source_question or ""):
                counts[row.language]["numbers, no imperial unit"] += 1
    names = sorted({name for count in counts.values() for name in count})
    shares = {name: sum(count[name] for count in counts.values()) / len(rows) for name in names}
    return {
        "rows": len(rows),
        "share_flagged": shares,
        "per_language": {code: dict(count) for code, count in counts.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stories", type=int, default=600, help="problems, each in ten languages")
    parser.add_argument(
        "--data", type=Path, help="folder of public files: gsmtrans, gsm8kinstruct, msvamp, xcopa, parallel/ntrex"
    )
    parser.add_argument("--whole", action="store_true", help="all 41,937 rows of NTREX")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"tinyworld": judge(arguments.stories)}
    if arguments.data is not None:
        for name, look in (
            ("gsmtrans", on_gsmtrans),
            ("gsm8kinstruct", on_gsm8kinstruct),
            ("files", on_msvamp),
            ("ntrex", on_ntrex),
        ):
            results[name] = look(arguments.data)
    record("corpus_checks", results)
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
        return
    for name, row in results["tinyworld"]["kinds"].items():
        print(
            f"{name:24} {row['rows']:5} rows  precision {row['precision']:.3f}  recall {row['recall']:.3f}  {', '.join(row['checks'])}"
        )
    print(
        json.dumps({key: value for key, value in results.items() if key != "tinyworld"}, ensure_ascii=False, indent=1)
    )


if __name__ == "__main__":
    main()
