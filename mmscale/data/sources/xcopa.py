"""XCOPA (Ponti et al. 2020): {split}.{l}.jsonl; `relation` is read from the file, and from Estonian's beside it by idx.

The field `question` is corrupt in th, tr, sw, id and it; labels agree everywhere. options: relation = file | et
(et takes Estonian's, which was checked). The filter `corrupt_relation` lists the rows that differ.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from mmscale.data.records import MultipleChoice, Record
from mmscale.data.sources.base import Request, Rows, Source, json_rows, text_field
from mmscale.errors import BadRow, UserError

LANGUAGES = ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
_LAYOUTS = ("{split}.{language}.jsonl", "human/{split}.{language}.jsonl", "data/{language}/{split}.{language}.jsonl")


@functools.lru_cache(maxsize=8)
def _estonian(file: Path) -> dict[int, str]:
    if not file.is_file():
        return {}
    return {row["idx"]: row["question"] for _, row in json_rows(file) if isinstance(row, dict)}


def _rows(request: Request) -> Rows:
    relation = request.options.get("relation", "file")
    if relation not in ("file", "et"):
        raise UserError("xcopa: options.relation must be file or et")
    file = request.file(*_LAYOUTS)
    reference = _estonian(file.with_name(file.name.replace(f".{request.language}.", ".et.")))
    if relation == "et" and not reference:
        raise UserError(f"xcopa: options.relation=et needs the Estonian file beside {file}")
    for origin, row in json_rows(file):
        yield origin, row if isinstance(row, BadRow) else {**row, "et": reference.get(row.get("idx"), "")}


def _parse(raw: Any, request: Request, origin: str) -> Record:
    choices = (("1", text_field(raw, "choice1")), ("2", text_field(raw, "choice2")))
    if raw.get("label") not in (0, 1):
        raise BadRow(f"label {raw.get('label')!r} is not 0 or 1")
    own = text_field(raw, "question")
    relation = raw["et"] if request.options.get("relation") == "et" and raw["et"] else own
    return MultipleChoice(
        text_field(raw, "premise"),
        choices,
        request.language,
        str(raw["label"] + 1),
        relation,
        str(raw.get("idx", "")),
        origin,
        reference_relation=raw["et"],
    )


SOURCE = Source(_rows, _parse, LANGUAGES, frozenset({"relation"}))
