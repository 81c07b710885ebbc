"""gsmtrans (QAlign): GSM8KInstruct questions paired with English, {l}-en/train.{l} and train.en line by line.

Row counts differ between languages: never pair two languages by line number.
"""

from __future__ import annotations

from typing import Any

from mmscale.data.records import ParallelSentence, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import line_pairs
from mmscale.errors import BadRow

LANGUAGES = ("bn", "de", "es", "fr", "ja", "ru", "sw", "th", "zh")


def _rows(request: SourceRequest) -> Rows:
    left = request.file("{language}-en/train.{language}", "gsm8kinstruct_question/{language}-en/train.{language}")
    return line_pairs(left, left.with_name("train.en"))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    source, target = (side.strip() for side in raw)
    if not source or not target:
        raise BadRow("one side is empty")
    return ParallelSentence(source, target, request.language, "en", origin)


SOURCE = Source(_rows, _parse, LANGUAGES)
