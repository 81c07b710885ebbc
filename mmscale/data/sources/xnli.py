"""XNLI (Conneau et al. 2018): premise, hypothesis and label in fifteen languages.

Forms: {split}-{l}.tsv without a header (XTREME; its test split has two columns, so no labels); xnli.{split}.tsv and
.jsonl with all languages (the original's: language, gold_label, sentence1, sentence2); multinli.train.{l}.tsv (the
original's: premise, hypo, label); xnli_dev.json and xnli/test.json, JSON arrays {sentence1, sentence2, label, language:
"Swahili"} (the MindMerger authors'); parquet with labels 0, 1, 2 (the hub's). A label keeps the letters it is written in.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmscale.data.records import ENTAILMENT_LABELS, Entailment, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.pieces import Pieces
from mmscale.data.sources.rows import csv_rows, file_rows, of_language, optional_text, text_field, text_rows
from mmscale.errors import BadRow
from mmscale.storage.reading import numbered_lines

LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
_LAYOUTS = (
    "{split}-{language}.tsv",
    "xnli.{split}.{language}.tsv",
    "multinli.{split}.{language}.tsv",
    "{language}/{split}-00000-of-00001.parquet",
    "xnli.{split}.jsonl",
    "xnli.{split}.tsv",
    "xnli_{split}.json",
    "{split}.json",
    "query_translation/xnli_{split}.json",
    "xnli/{split}.json",
    "evaluation/xnli/{split}.json",
)


def _reader(file: Path) -> Callable[[Path], Pieces]:
    if file.suffix != ".tsv":
        return file_rows
    _, first = next(numbered_lines(file), (0, ""))
    return csv_rows if {"label", "gold_label"} & set(first.split("\t")) else text_rows


def _rows(request: SourceRequest) -> Rows:
    file = request.file(*_LAYOUTS, of_many=True)
    return of_language(_reader(file)(file), request, request.shares(*_LAYOUTS))


def _label(text: str) -> str:
    """The label as written; a number of the hub's as its name; empty where the split hides it."""
    if text in ("", "-", "-1"):
        return ""
    if text in ("0", "1", "2"):
        return ENTAILMENT_LABELS[int(text)]
    if text.lower() == "contradictory":  # the original's machine-translated training files
        return "contradiction"
    if text.lower() not in ENTAILMENT_LABELS:
        raise BadRow(f"label '{text:.60}' is none of {', '.join(ENTAILMENT_LABELS)}")
    return text


def parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    """A record of a row of any of the forms."""
    if isinstance(raw, str):
        fields = [field.strip() for field in raw.split("\t")]
        if len(fields) not in (2, 3) or not all(fields[:2]):
            raise BadRow(f"has {len(fields)} tab-separated fields, expected premise, hypothesis and label")
        return Entailment(fields[0], fields[1], request.language, _label((*fields, "")[2]), origin)
    label = _label(optional_text(raw, "gold_label", "label"))
    premise, hypothesis = text_field(raw, "sentence1", "premise"), text_field(raw, "sentence2", "hypothesis", "hypo")
    return Entailment(premise, hypothesis, request.language, label, origin)


SOURCE = Source(_rows, parse, LANGUAGES)
