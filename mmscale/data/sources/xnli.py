"""XNLI (Conneau et al. 2018) in the XTREME form: {split}-{l}.tsv of premise, hypothesis, label, no header.

The XTREME test split has two columns, so no labels; the original files have a header and are read by `table`.
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Entailment, Record
from mmscale.data.sources.base import Request, Rows, Source
from mmscale.errors import BadRow
from mmscale.files import numbered_lines

LANGUAGES = ("ar", "bg", "de", "el", "en", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
_LABELS = {
    "entailment": "entailment",
    "neutral": "neutral",
    "contradiction": "contradiction",
    "contradictory": "contradiction",
}


def _rows(request: Request) -> Rows:
    file = request.file("{split}-{language}.tsv", "xnli.{split}.{language}.tsv")
    for number, text in numbered_lines(file):
        if text.strip():
            yield f"{file}:{number}", text


def _parse(raw: Any, request: Request, origin: str) -> Record:
    fields = [field.strip() for field in raw.split("\t")]
    if len(fields) not in (2, 3) or not all(fields[:2]):
        raise BadRow(f"has {len(fields)} tab-separated fields, expected premise, hypothesis and label")
    label = ""
    if len(fields) == 3:
        if fields[2] not in _LABELS:
            raise BadRow(f"label '{fields[2]}' is none of entailment, neutral, contradiction")
        label = _LABELS[fields[2]]
    return Entailment(fields[0], fields[1], request.language, label, origin)


SOURCE = Source(_rows, _parse, LANGUAGES)
