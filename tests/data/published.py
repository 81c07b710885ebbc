"""Rows of our own in every form that authors' programs write and read; each source in each of its forms, once."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Form:
    """Files of a data set, how they are asked for, and how many records of which language they hold."""

    source: str
    files: dict[str, str]
    """Name below the data folder -> text."""
    expected: dict[str, int]
    split: str = "train"
    options: dict[str, Any] = field(default_factory=dict)
    path: str = ""
    """Below the data folder."""

    @property
    def name(self) -> str:
        return f"{self.source}:{next(iter(self.files))}"

    def write(self, folder: Path) -> Path:
        for name, text in self.files.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return folder / self.path if self.path else folder


def lines(rows: list[Any]) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def array(rows: list[Any]) -> str:
    """As MindMerger's `save_dataset` and QAlign's results are written: indented."""
    return json.dumps(rows, ensure_ascii=False, indent=2)


def _math(name: str, n: int) -> list[dict[str, str]]:
    return [
        {
            "lang": name,
            "query": f"Swali {i}: 2 + {i}?",
            "response": f"It is {2 + i}. #### {2 + i}\nThe answer is: {2 + i}",
        }
        for i in range(n)
    ]


def _nli(name: str, n: int) -> list[dict[str, str]]:
    labels = ["entailment", "neutral", "contradiction"]
    return [
        {"sentence1": f"Mvua {i}.", "sentence2": "Jua.", "label": labels[i % 3], "language": name} for i in range(n)
    ]


def _choice(code: str, i: int, **more: Any) -> dict[str, Any]:
    options = [{"label": label, "text": f"jibu {label}"} for label in "ABCDE"]
    return {
        "id": f"q{i}",
        "lang": code,
        "question": {"stem": f"Swali {i}?", "choices": options},
        "answerKey": "B",
        **more,
    }


_COPA = [
    {"premise": f"Tukio {i}.", "choice1": "moja", "choice2": "mbili", "question": "cause", "label": i % 2, "idx": i}
    for i in range(5)
]
_MCOT = [
    {"lang-id": code, "question": f"swali {i}", "answer": f"Jibu ni {i}. #### {i}"}
    for i in range(6)
    for code in ("sw", "de")
]
_META = [
    {"type": kind, "query": f"q{i}", "original_question": "o", "response": f"so {i}\n#### {i}\nThe answer is: {i}"}
    for i, kind in enumerate(["GSM_AnsAug", "MATH_SV", "GSM_AnsAug", "GSM_FOBAR"])
]
_OCTOPUS = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request in {0}. "
    "Please answer in {0}.\n\n### Instruction:\nSwali {1}?\n\n### Response:"
)
_SVAMP = [
    {"query": f"english {i}", "equation": "- a b", "response": f"{i}.0", "m_query": f" swali {i} "} for i in range(4)
]

FORMS: tuple[Form, ...] = (
    # CONE-MT/MindMerger, mindmerger_tools/read_datasets.py: read_math_train, read_lego, read_xnli_train, read_xnli,
    # read_x_csqa_train, read_x_csqa, read_msvamp, read_mgsm
    Form(
        "query_translation",
        {"query_translation/math.json": array(_math("Swahili", 4) + _math("German", 3))},
        {"sw": 4, "de": 3},
    ),
    Form("query_translation", {"math.json": json.dumps({"data": _math("Swahili", 2)})}, {"sw": 2}),
    Form(
        "bilingual_pairs",
        {"en-sw/train_100k.sw": "moja\nmbili \n", "en-sw/train_100k.en": "one\ntwo\n"},
        {"sw": 2},
    ),
    Form("xnli", {"xnli_dev.json": array(_nli("Swahili", 3) + _nli("Greek", 4))}, {"sw": 3, "el": 4}, split="dev"),
    Form("xnli", {"evaluation/xnli/test.json": array(_nli("Swahili", 3))}, {"sw": 3}, split="test"),
    Form(
        "xcsqa",
        {
            f"x-csqa/train_{code}.jsonl": lines(
                [{k: v for k, v in _choice(code, i).items() if k != "lang"} for i in range(4)]
            )
            for code in ("nl", "sw")
        },
        {"nl": 4, "sw": 4},
    ),
    Form("xcsqa", {"x-csqa/ja/dev.jsonl": lines([_choice("jap", i) for i in range(3)])}, {"ja": 3}, split="dev"),
    Form("msvamp", {"test_Swahili.jsonl": lines(_SVAMP)}, {"sw": 4}, split="test"),
    Form("mgsm", {"mgsm_sw.tsv": "swali moja\t1,800\nswali mbili\t18\n"}, {"sw": 2}, split="test"),
    # NJUNLP/QAlign: data/gsm8kinstruct/extract_data.py, data/gsmtrans, data/metamath, evaluate/scripts
    Form("gsm8kinstruct", {"sw/train.txt": lines([{"question": "swali", "answer": "Jibu #### 5"}] * 2)}, {"sw": 2}),
    Form("gsmtrans", {"sw-en/train.sw": "moja\nmbili\n", "sw-en/train.en": "one\ntwo\n"}, {"sw": 2}),
    Form("metamath", {"MetaMathQA-395K.json": array(_META)}, {"en": 4}),
    Form("metamath", {"MetaMathQA-395K.json": array(_META)}, {"en": 2}, options={"types": ["GSM_AnsAug"]}),
    Form("mgsm", {"mgsm_Swahili.json": lines([{"query": "swali", "response": "18"}] * 3)}, {"sw": 3}, split="test"),
    Form("msvamp", {"test_Swahili.json": lines(_SVAMP)}, {"sw": 4}, split="test"),
    # microsoft/MathOctopus: MGSM8KInstruct_Parallel.json as QAlign's extract_data.py takes it apart
    Form(
        "gsm8kinstruct",
        {
            "MGSM8KInstruct_Parallel.json": lines(
                [
                    {"prompt": _OCTOPUS.format(name, i), "chosen": f"Jibu #### {i}"}
                    for i in range(3)
                    for name in ("Swahili", "English")
                ]
            )
        },
        {"sw": 3, "en": 3},
    ),
    # laihuiyuan/mCoT: data/mgsm, data/msvamp; the corpus as its card shows it
    Form("mcot_math", {"mCoT-MATH.jsonl": lines(_MCOT)}, {"sw": 6, "de": 6}),
    Form("mgsm", {"test_sw.json": array([{"question": "swali", "answer": "18"}])}, {"sw": 1}, split="test"),
    Form(
        "msvamp",
        {"test_sw.json": array([{"query": "e", "equation": "- a b", "answer": "8.0", "question": "swali"}] * 2)},
        {"sw": 2},
        split="test",
    ),
    # alisawuffles/proxy-tuning and openai/grade-school-math
    Form(
        "gsm8k",
        {"test.jsonl": lines([{"question": "q", "answer": "x <<1+1=2>>2\n#### 1,002"}] * 3)},
        {"en": 3},
        split="test",
    ),
    # the Hugging Face hub: juletxara/mgsm as JSON lines
    Form(
        "mgsm",
        {
            "sw/test.jsonl": lines(
                [{"question": "swali", "answer": None, "answer_number": 18, "equation_solution": None}] * 2
            )
        },
        {"sw": 2},
        split="test",
    ),
    # masakhane/afrimgsm and afrixnli as pandas wrote them, SVAMP's authors'
    Form(
        "afrimgsm",
        {"data/hau/test.tsv": 'question\tanswer\tanswer_number\tequation_solution\n"a ""b"""\t\t18\t\nc\t\t2.0\t\n'},
        {"ha": 2},
        split="test",
    ),
    Form(
        "afrixnli",
        {"data/zul/dev.tsv": "premise\thypothesis\tlabel\nA\tB\tneutral\nA\tC\t0\n"},
        {"zu": 2},
        split="dev",
    ),
    Form(
        "svamp",
        {
            "SVAMP.json": array(
                [{"ID": "c", "Body": "He has 2.", "Question": "What?", "Equation": "2", "Answer": 2.0}] * 2
            )
        },
        {"en": 2},
    ),
    # TIGER-Lab/MathInstruct, XTREME's and the original XNLI, XCOPA, CommonsenseQA
    Form(
        "mathinstruct",
        {
            "MathInstruct.json": array(
                [{"source": "a", "instruction": "i", "output": o} for o in ("so 4", "x = 1\nprint(x)")]
            )
        },
        {"en": 1},
        options={"programs": "none"},
    ),
    Form("xnli", {"dev-sw.tsv": "Mvua.\tJua.\tneutral\nA.\tB.\tentailment\n"}, {"sw": 2}, split="dev"),
    Form(
        "xnli",
        {
            "xnli.dev.tsv": "language\tgold_label\tsentence1\tsentence2\n"
            'sw\tneutral\tMvua "kubwa.\tJua.\nde\tneutral\tRegen.\tSonne.\nsw\t-\tA.\tB.\n'
        },
        {"sw": 2, "de": 1},
        split="dev",
    ),
    Form("xnli", {"multinli.train.sw.tsv": "premise\thypo\tlabel\nA.\tB.\tcontradictory\n"}, {"sw": 1}),
    Form("xcopa", {"test.sw.jsonl": lines(_COPA), "test.et.jsonl": lines(_COPA)}, {"sw": 5}, split="test"),
    Form(
        "xcsqa",
        {
            f"x-csqa/train_{code}.jsonl": lines([_choice(code, i) for i in numbers])
            for code, numbers in (("sw", (1, 0)), ("en", (0, 1, 2)))
        },
        {"sw": 2},
        options={"form": "translation"},
    ),
    Form("xcsqa", {"dev_rand_split.jsonl": lines([{**_choice("en", i)} for i in range(2)])}, {"en": 2}, split="dev"),
    # anybody's
    Form(
        "table",
        {"a.csv": 'frage,antwort,sprache\n"None, sagt er",007,German\nNA,1,de\nnull,,Swahili\n'},
        {"de": 2, "sw": 1},
        options={"columns": {"question": "frage", "answer": "antwort"}, "language_column": "sprache"},
        path="a.csv",
    ),
    Form(
        "bitext",
        {f"{n}/train.{n}": "moja\nmbili\n" for n in ("swh", "deu")}
        | {f"{n}/train.en": "one\ntwo\n" for n in ("swh", "deu")},
        {"sw": 2, "de": 2},
        options={
            "codes": {"sw": "swh", "de": "deu"},
            "source_file": "{code}/train.{code}",
            "target_file": "{code}/train.en",
        },
    ),
    Form("bitext", {"a.tsv": "moja\tone\nmbili\ttwo\n"}, {"sw": 2}, path="a.tsv"),
)
