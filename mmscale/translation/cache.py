"""Translations on disk: a folder for all that one translator made by one way of decoding, each row under the text it is of.

Each process appends to a file of its own, so that any number may translate at once, in one run or in several. A row carries a
hash of all of it and of the work it belongs to: one that is damaged is told, and its text translated again.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from mmscale.storage.files import append_lines, require_folder
from mmscale.storage.reading import parse_json
from mmscale.storage.row_log import whole_rows
from mmscale.translation.translator import Translated

Source = tuple[str, str]
"""(language, text)"""
Rows = dict[Source, Translated]
_KEYS = {"language", "source", *(field.name for field in fields(Translated)), "sha256"}


class TranslationCache:
    """The folder of one work, `work` naming all that decides what a text becomes."""

    def __init__(self, root: Path, work: str) -> None:
        self.work, self.folder = work, root / work
        self._own = self.folder / f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}.jsonl"

    def rows(self) -> Rows:
        """Everything that is there; of two translations of a text the one in the older file."""
        held: Rows = {}
        for file in sorted(self.folder.glob("*.jsonl"), reverse=True):
            held |= dict(whole_rows(file, self._row, "left out, its text is translated again"))
        return held

    def append(self, rows: Mapping[Source, Translated]) -> None:
        """Add rows, on the disk when this returns; UserError where they cannot be kept."""
        require_folder(self.folder)
        append_lines(self._own, self._lines(rows))

    def _lines(self, rows: Mapping[Source, Translated]) -> Iterable[str]:
        for (language, source), made in rows.items():
            row = {"language": language, "source": source, **asdict(made)}
            yield json.dumps({**row, "sha256": self._hash(row)}, ensure_ascii=False) + "\n"

    def _row(self, line: bytes, _: str) -> tuple[Source, Translated] | None:
        try:
            row = parse_json(line.decode())
        except ValueError:  # neither UTF-8 nor JSON
            return None
        if not isinstance(row, dict) or set(row) != _KEYS or row.pop("sha256") != self._hash(row):
            return None
        return (row.pop("language"), row.pop("source")), Translated(**row)

    def _hash(self, row: Mapping[str, object]) -> str:
        content = json.dumps([self.work, row], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()
