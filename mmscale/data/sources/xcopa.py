"""XCOPA (Ponti et al. 2020): {split}.{l}.jsonl; `relation` is read from the file, and from Estonian's beside it by idx.

The field `question` is corrupt in th, tr, sw, id and it; labels agree everywhere. options: relation = file | et
(et takes Estonian's, which was checked). The filter `corrupt_relation` lists the rows that differ.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from mmscale.data.records import MultipleChoice, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.rows import file_rows, optional_text, text_field
from mmscale.errors import BadRow, UserError

RELATIONS = ("cause", "effect")
LANGUAGES = ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
_LAYOUTS = (
    "{split}.{language}.jsonl",
    "human/{split}.{language}.jsonl",
    "data/{language}/{split}.{language}.jsonl",
    "{language}/{split}-00000-of-00001.parquet",
)


@functools.lru_cache(maxsize=8)
def _estonian(file: Path) -> dict[int, str]:
    if not file.is_file():
        return {}
    return {row["idx"]: text_field(row, "question") for _, row in file_rows(file) if _has_number(row)}


def _has_number(row: Any) -> bool:
    return isinstance(row, dict) and type(row.get("idx")) is int and row.get("question") in RELATIONS


def _rows(request: SourceRequest) -> Rows:
    relation = request.options.get("relation", "file")
    if relation not in ("file", "et"):
        raise UserError("xcopa: options.relation must be file or et")
    file = request.file(*_LAYOUTS)
    estonian = file.with_name(file.name.replace(f".{request.language}.", ".et."))
    reference = _estonian(estonian) if estonian != file or request.language == "et" else {}
    if relation == "et" and not reference:
        raise UserError(f"xcopa: options.relation=et needs the Estonian file beside {file}")
    for origin, row in file_rows(file):
        checked = reference.get(row["idx"], "") if _has_number(row) else ""
        yield origin, {**row, "et": checked} if isinstance(row, dict) else row


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    choices = (("1", text_field(raw, "choice1")), ("2", text_field(raw, "choice2")))
    label = raw.get("label")
    if type(label) is not int or label not in (0, 1):
        raise BadRow(f"label {label!r:.60} is not 0 or 1")
    own = text_field(raw, "question")
    if own not in RELATIONS:
        raise BadRow(f"question '{own:.60}' is none of {', '.join(RELATIONS)}")
    repaired = request.options.get("relation") == "et"
    if repaired and not raw["et"]:
        raise BadRow("has no row of this idx in the Estonian file")
    return MultipleChoice(
        question=text_field(raw, "premise"),
        choices=choices,
        language=request.language,
        answer=str(label + 1),
        relation=raw["et"] if repaired else own,
        identifier=optional_text(raw, "idx"),
        origin=origin,
        reference_relation=raw["et"],
    )


SOURCE = Source(_rows, _parse, LANGUAGES, frozenset({"relation"}))
