"""GSM8KInstruct (MathOctopus, Chen et al. 2023): {language}/train.txt, JSONL of question and answer in one language."""

from __future__ import annotations

from typing import Any

from mmscale.data.records import Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.data.sources.problems import solved

LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "th", "zh")


def _rows(request: Request) -> Rows:
    return json_rows(request.file("{language}/train.txt", "train_{language}.jsonl", "{language}.jsonl"))


def _parse(raw: Any, request: Request, origin: str) -> Record:
    return solved(text_field(raw, "question", "query"), text_field(raw, "answer", "response"), request.language, origin)


SOURCE = Source(_rows, _parse, LANGUAGES)
