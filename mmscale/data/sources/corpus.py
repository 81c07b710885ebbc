"""A corpus that `mmscale corpus compile` made: parquet files with a manifest, whose hashes they have to have.

Splits are train and validation. Rows of other languages than the one asked for are left out.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from mmscale.data.records import Problem, Record
from mmscale.data.sources.base import Rows, Source, SourceRequest
from mmscale.data.sources.pieces import Parquet, Shards
from mmscale.data.sources.rows import optional_text, text_field
from mmscale.errors import LeftOut, NotHereYet, UserError
from mmscale.storage.files import sha256
from mmscale.storage.reading import read_json_object

MANIFEST = "manifest.json"
FORMAT = "mmscale corpus 1"
LANGUAGE_COLUMN = {"corpus": "language", "mcot": "lang-id"}
"""Form of the rows -> column that names their language."""
_REMEDY = "run mmscale corpus compile again"


def read_manifest(folder: Path) -> dict[str, Any]:
    """What is in a compiled corpus; UserError where the folder is none."""
    file = folder / MANIFEST
    if not file.is_file():
        raise NotHereYet(f"{folder} is no compiled corpus (it has no {MANIFEST}): {_REMEDY}, or correct the path")
    manifest = read_json_object(file, _REMEDY)
    if manifest.get("format") != FORMAT or manifest.get("form") not in LANGUAGE_COLUMN:
        raise UserError(f"{file} is of another version of mmscale: {_REMEDY}")
    return manifest


@functools.lru_cache(maxsize=1 << 16)
def _verify(path: Path, wanted: str, size: int, changed_ns: int) -> None:
    """UserError where a file is not the one of the manifest; what was verified is not read again until it changes."""
    if sha256(path) != wanted:
        raise UserError(f"{path} is not the file that its manifest names (its hash differs): {_REMEDY}")


def verified_files(folder: Path, split: str) -> list[Path]:
    """The files of a split, each with the hash that the manifest names."""
    splits = read_manifest(folder)["splits"]
    if split not in splits:
        raise UserError(f"corpus {folder} has no split '{split}': it has {', '.join(splits)}")
    files = []
    for entry in splits[split]["files"]:
        path = folder / entry["name"]
        if not path.is_file():
            raise UserError(f"{path} is missing, which its manifest names: {_REMEDY}")
        stat = path.stat()
        _verify(path, entry["sha256"], stat.st_size, stat.st_mtime_ns)
        files.append(path)
    return files


def _rows(request: SourceRequest) -> Rows:
    folder, code = Path(request.path).expanduser(), request.language
    column = LANGUAGE_COLUMN[read_manifest(folder)["form"]]
    files = Shards([Parquet(path) for path in verified_files(folder, request.split)])
    return files.mapped(lambda origin, row: row if row[column] == code else LeftOut(f"language {row[column]}"))


def _parse(raw: Any, request: SourceRequest, origin: str) -> Record:
    if "lang-id" in raw:
        rationale, answer, english = text_field(raw, "answer"), "", ""
    else:
        rationale, answer = optional_text(raw, "rationale"), optional_text(raw, "answer")
        english = optional_text(raw, "source_question") if raw.get("source_language") == "en" else ""
    return Problem(
        question=text_field(raw, "question"),
        language=request.language,
        answer=answer,
        rationale=rationale,
        rationale_language=request.language,
        english_question=english,
        origin=origin,
    )


SOURCE = Source(_rows, _parse)
