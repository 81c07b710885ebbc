"""What a source is: raw rows with their place in a file, and how one row becomes a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmscale.data.records import Record
from mmscale.data.sources.hub import local_folder, on_hub
from mmscale.data.sources.pieces import Row
from mmscale.errors import NotHereYet, UserError
from mmscale.languages import LANGUAGES, language
from mmscale.storage.reading import is_file

Rows = Iterable[Row]
"""(origin "file:line", raw row) of every row of a file; processes share them where they are Pieces, or Mapped ones."""


@dataclass(frozen=True, kw_only=True)
class SourceRequest:
    """One language of one data set."""

    path: str
    language: str
    split: str = "train"
    limit: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    alone: bool = True
    """Whether no other language is read from the same path."""
    codes: dict[str, str] = field(default_factory=dict)
    """What {code} is in file names that do not use our language codes."""

    def file(self, *layouts: str, of_many: bool = False) -> Path:
        """The file asked for: `path` itself, with {language}, {Language} and {split} filled in, or the first of
        `layouts` that exists below it.

        Rows of a file that serves other languages too have to say which they are of (`of_many`), or the file is refused
        where several are read.
        """
        path = self._find(self.language, layouts)
        if path is None:
            root = Path(_fill(self._root(layouts), self._names(self.language))).expanduser()
            if not root.is_dir():
                raise NotHereYet(f"data not found: {root} is neither a file nor a folder; check data.path")
            tried = ", ".join(dict.fromkeys(_fill(name, self._names(self.language)).split("/")[-1] for name in layouts))
            raise UserError(
                f"no file for language '{self.language}' under {root}: looked for {tried}; "
                f"leave the language out, or give data.path as a pattern with {{language}}"
            )
        if not of_many and not self.alone and self.shares(*layouts):
            raise UserError(
                f"{path} would be read as every language that is asked for: give data.path as a pattern with "
                f"{{language}}, or name the one language it is in"
            )
        return path

    def has(self, *layouts: str) -> bool:
        """Whether there is such a file."""
        return self._find(self.language, layouts) is not None

    def shares(self, *layouts: str) -> bool:
        """Whether the file asked for is also the one of another language."""
        other = next(code for code in LANGUAGES if code != self.language)
        return self._find(self.language, layouts) == self._find(other, layouts)

    def _root(self, layouts: tuple[str, ...]) -> str:
        """`path`, or where the hub's files of this language lie in the local cache."""
        if not on_hub(self.path):
            return self.path
        return str(local_folder(self.path, tuple(_fill(name, self._names(self.language)) for name in layouts)))

    def _names(self, code: str) -> dict[str, str]:
        own = self.codes.get(code, code)
        return {"language": code, "Language": language(code).name, "code": own, "split": self.split}

    def _find(self, code: str, layouts: tuple[str, ...]) -> Path | None:
        names = self._names(code)
        path = Path(_fill(self._root(layouts), names)).expanduser()
        candidates = [path, *(file for name in layouts for file in _matching(path, _fill(name, names)))]
        return next((candidate for candidate in candidates if is_file(candidate)), None)


def _matching(folder: Path, name: str) -> list[Path]:
    """The files below a folder that a name stands for; `*` is what the hub puts there."""
    return sorted(folder.glob(name)) if "*" in name else [folder / name]


def _fill(pattern: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        pattern = pattern.replace("{" + name + "}", value)
    return pattern


@dataclass(frozen=True)
class Source:
    """One public data set."""

    rows: Callable[[SourceRequest], Rows]
    parse: Callable[[Any, SourceRequest, str], Record]
    """(raw row, request, origin) -> record; raises BadRow or LeftOut."""
    languages: tuple[str, ...] = ()
    """Languages it exists in; empty means whatever files are there."""
    options: frozenset[str] = frozenset()
    """Names of the options it understands."""
    generated: bool = False
    """Made by a program rather than read: the filters for faults of published files are not run."""
