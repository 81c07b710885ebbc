"""SVAMP (Patel et al. 2021): 1000 English word problems.

Forms: SVAMP.json (the authors': all 1000, whatever the split), test.json and train.json, or parquet, of the hub's ChilleD/SVAMP,
which parts them into 700 to train on and 300 to test; split: all reads both, the 300 first.
"""

from __future__ import annotations

import re
from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import numeric_gold
from mmscale.data.sources.rows import file_rows, text_field
from mmscale.errors import UserError

WHOLE = "all"
_PARTS = ("test", "train")
_AUTHORS = ("SVAMP.json", "data/SVAMP.json")
_HUB = ("{part}.json", "{part}.jsonl", "data/{part}-00000-of-00001.parquet", "data/{part}-00000-of-00001-*.parquet")


def _rows(request: SourceRequest) -> Rows:
    if request.split not in (WHOLE, *_PARTS):
        raise UserError(f"svamp: split must be {WHOLE}, test or train, not {request.split}")
    parts = _PARTS if request.split == WHOLE else (request.split,)
    if request.has(*_AUTHORS):
        yield from file_rows(request.file(*_AUTHORS))
        return
    for part in parts:
        yield from file_rows(request.file(*(layout.replace("{part}", part) for layout in _HUB)))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    body, question = text_field(raw, "Body"), text_field(raw, "Question")
    joint = " " if re.search(r"[.?!,]$", body) else ". "  # a third of the bodies end without a full stop
    return Problem(
        question=body + joint + question,
        language="en",
        answer=numeric_gold(text_field(raw, "Answer")),
        origin=origin,
    )


SOURCE = Source(_rows, _parse, ("en",))
