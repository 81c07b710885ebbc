"""The MindMerger authors' `bilingual_pairs`: en-{l}/train_100k.{l} beside train_100k.en, lines kept with their newline there."""

from __future__ import annotations

from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.gsmtrans import SOURCE as GSMTRANS
from mmscale.data.sources.rows import line_pairs

_LAYOUTS = (
    "en-{language}/train_100k.{language}",
    "bilingual_pairs/en-{language}/train_100k.{language}",
    "{language}-en/train_100k.{language}",
    "{Language}-English/train_100k.{language}",
    "en-{language}/train.{language}",
    "{language}-en/train.{language}",
    "{language}/train.{language}",
)


def _rows(request: SourceRequest) -> Rows:
    left = request.file(*_LAYOUTS)
    return line_pairs(left, left.with_name(left.stem + ".en"))


SOURCE = Source(_rows, GSMTRANS.parse)
