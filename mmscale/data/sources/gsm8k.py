"""GSM8K (Cobbe et al. 2021): {split}.jsonl with question and a solution that ends in "#### n"; the hub's parquet too."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmscale.data.records import Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.problems import numeric_gold, solved
from mmscale.data.sources.rows import file_rows, text_field
from mmscale.errors import BadRow


def _rows(request: SourceRequest) -> Rows:
    hub = "{split}-00000-of-00001.parquet"
    return file_rows(request.file("{split}.jsonl", "gsm8k_{split}.jsonl", hub, f"main/{hub}"))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    problem = solved(text_field(raw, "question"), text_field(raw, "answer"), "en", origin)
    if not problem.answer:
        raise BadRow('the solution has no "#### answer"')
    return replace(problem, answer=numeric_gold(problem.answer))


SOURCE = Source(_rows, _parse, ("en",))
