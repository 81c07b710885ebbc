"""A stage's tokens, made once by as many processes as there are, and the account of every row they came from.

Each process reads its own pieces of each data set (data/sharing.py), tokenises them and writes a part of each, with what became of
its rows; a part that is there is not made again, whoever made it. Nothing is kept of a piece but its part: the memory of a
process does not grow with the data. When all parts are there every process adds the accounts up, so that all of them refuse data
that is unusable, and the first publishes the index.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmscale.config.data import DataConfig, TrainingDataConfig
from mmscale.data.loading import DataAccount, Piece, RowCount, wanted_languages
from mmscale.data.records import Record
from mmscale.data.segments import TokenizedExample
from mmscale.data.sharing import Compared, Wanted, share_of, shared_set, together
from mmscale.data.token_store import PartRun, content_of, token_folder
from mmscale.errors import UserError
from mmscale.parallel.world import World
from mmscale.progress import bar, say
from mmscale.storage.files import write_json
from mmscale.storage.parts import Content, Part
from mmscale.storage.reading import read_json_object

INDEX = "index.json"
_POLL_SECONDS = 0.2
_COUNTS, _ACCOUNT = "counts", "account"
"""Notes of a part: language -> examples, in their order; what became of the rows of its piece."""


@dataclass(frozen=True)
class SetOf:
    """A data set of a stage, in the order of its configuration."""

    name: str
    """train or dev."""
    number: int
    config: TrainingDataConfig
    languages: tuple[str, ...]

    def part(self, base: int, number: int, kind: str = "") -> Part:
        return Part(f"{self.name}-{self.number}-{base}{kind}", number)

    def parts(self, pieces: Sequence[int], kind: str = "") -> Iterator[Part]:
        """The parts of so many pieces of each base."""
        return (self.part(base, number, kind) for base, count in enumerate(pieces) for number in range(count))


def sets_of(name: str, configs: Sequence[TrainingDataConfig], run_languages: Sequence[str]) -> list[SetOf]:
    return [SetOf(name, i, config, wanted_languages(config, run_languages)) for i, config in enumerate(configs)]


@dataclass(frozen=True)
class Index:
    """Which parts there are."""

    folder: Path
    pieces: Mapping[str, Sequence[int]]
    """"NAME-NUMBER" of a data set -> pieces of each of its bases."""

    def parts(self, one: SetOf) -> list[Part]:
        return list(one.parts(self.pieces[f"{one.name}-{one.number}"]))

    def runs(self, one: SetOf) -> list[PartRun]:
        """The examples of a data set, language after language as they were asked for, in the order of its files."""
        by_language: dict[str, list[PartRun]] = {code: [] for code in one.languages}
        for part in self.parts(one):
            start = 0
            for code, count in json.loads(token_folder(self.folder).notes(part)[_COUNTS]).items():
                by_language[code].append(PartRun(part, start, count))
                start += count
        return [run for runs in by_language.values() for run in runs if run.count]

    def account(self, one: SetOf) -> DataAccount:
        """What became of every row of a data set."""
        total = _new_account(one.config)
        total.counts = {code: RowCount() for code in one.languages}
        for part in self.parts(one):
            total.add(_read_account(token_folder(self.folder).notes(part)[_ACCOUNT], one.config))
        return total


def _new_account(config: DataConfig) -> DataAccount:
    return DataAccount(source=config.source, path=config.path)


def _noted(account: DataAccount) -> str:
    counts = {code: asdict(count) for code, count in account.counts.items()}
    return json.dumps({"counts": counts, "flags": account.flags, "dropped": account.dropped})


def _read_account(text: str, config: DataConfig) -> DataAccount:
    values, account = json.loads(text), _new_account(config)
    account.counts = {code: RowCount(**count) for code, count in values["counts"].items()}
    account.flags, account.dropped = values["flags"], values["dropped"]
    return account


def read_index(folder: Path, sets: Sequence[SetOf], hashed: bool) -> Index | None:
    """The index of a folder of tokens, or None where it is not written yet. Every bit of its parts is looked at if `hashed`, else
    their headers.

    An index that is damaged, or says what its parts are not, is removed with the parts that are not whole, and both are
    made again: a folder of tokens is a cache.
    """
    file = folder / INDEX
    if not file.is_file():
        return None
    try:
        values = read_json_object(file, "it is made again")
        index, tokens = Index(folder, _checked(values, file, sets)), token_folder(folder)
        damaged = [tokens.path(part) for part in tokens.damaged((p for one in sets for p in index.parts(one)), hashed)]
        for path in damaged:
            path.unlink(missing_ok=True)
        if damaged:
            raise UserError(f"{damaged[0]} is damaged, or not of this index ({len(damaged)} such parts): made again")
        if values["examples"] != _examples(index, sets):
            raise UserError(f"{file} is not of the parts beside it: it is made again")
        return index
    except UserError as error:
        say(str(error))
    file.unlink(missing_ok=True)
    return None


def _checked(values: dict[str, Any], file: Path, sets: Sequence[SetOf]) -> dict[str, list[int]]:
    pieces = values.get("pieces")
    if (
        not isinstance(pieces, dict)
        or set(pieces) != {f"{one.name}-{one.number}" for one in sets}
        or set(values) != {"pieces", "examples"}
        or not all(map(_are_counts, pieces.values()))
    ):
        raise UserError(f"{file} is no index of tokens: it is made again")
    return pieces


def _are_counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(count) is int and count >= 0 for count in value)


def _examples(index: Index, sets: Sequence[SetOf]) -> list[int]:
    return [sum(run.count for run in index.runs(one)) for one in sets]


Examples = Callable[[SetOf, Sequence[Record]], list[TokenizedExample]]
Translate = Callable[[SetOf, Iterator[list[Record]]], None]


class _Sharing:
    """What this process does of one data set."""

    def __init__(self, one: SetOf, folder: Path, run_languages: Sequence[str], world: World, before: int) -> None:
        self.one, self.tokens = one, token_folder(folder)
        self.shared = shared_set(one.config, run_languages)
        mine = share_of(world.rank, world.size, before)
        self._mine = [mine(base, count) for base, count in enumerate(self.shared.counts)]
        self.bases = len(self._mine)
        """Files of the data set, or what stands for one."""
        known = [count for count in self.shared.counts if count is not None]
        self.own: int | None = None
        """Pieces of this process, where that is known before they are read."""
        if len(known) == self.bases:
            self.own = sum(sum(map(of_base, range(count))) for of_base, count in zip(self._mine, known, strict=True))

    @property
    def pieces(self) -> list[int]:
        """Pieces of each base, when all were read."""
        return [count or 0 for count in self.shared.counts]

    def missing(self, kind: str = "") -> Wanted:
        """This process's own pieces, of which there are no parts yet."""

        def wanted(base: int, number: int) -> bool:
            return self._mine[base](number) and not self.tokens.holds(self.one.part(base, number, kind))

        return wanted

    def write_keys(self, compared: Compared) -> list[Part]:
        """Write what this process has to tell of its records; the parts that all of them make."""
        for base, number, keys in compared.keys(self.missing("-keys")):
            content = Content({"keys": torch.from_numpy(keys)}, {})
            self.tokens.make(self.one.part(base, number, "-keys"), lambda: content)  # noqa: B023
        return list(self.one.parts(self.pieces, "-keys"))

    def compare(self, compared: Compared) -> None:
        """Take in what all processes have told."""
        places = [(base, number) for base, count in enumerate(self.pieces) for number in range(count)]
        read = {
            place: self.tokens.read(self.one.part(*place, "-keys")).tensors["keys"].numpy().copy() for place in places
        }
        compared.compare(read)

    def make(self, piece: Piece, examples: Examples) -> None:
        counts = {code: len(records) for code, records in piece.records.items()}
        notes = {_COUNTS: json.dumps(counts), _ACCOUNT: _noted(piece.account)}
        part = self.one.part(piece.base, piece.number)
        self.tokens.make(part, lambda: content_of(examples(self.one, together(piece)), notes))


class TokenMaking:
    """The tokens of a stage in the making."""

    def __init__(
        self, title: str, folder: Path, sets: Sequence[SetOf], run_languages: Sequence[str], world: World
    ) -> None:
        self.title, self.folder, self.world, self.sets = title, folder, world, sets
        self.sharing: list[_Sharing] = []
        before = 0
        for one in sets:
            self.sharing.append(_Sharing(one, folder, run_languages, world, before))
            before += self.sharing[-1].bases

    def make(self, examples: Examples, translate: Translate, wait: Wait) -> Index:
        """This process's parts, and then the wait for those of others. UserError where data is unusable, on all processes."""
        self._compare(wait)
        for sharing in self.sharing:
            translate(sharing.one, (together(piece) for piece in sharing.shared.pieces(sharing.missing())))
        known = [sharing.own for sharing in self.sharing if sharing.own is not None]
        total = sum(known) if len(known) == len(self.sharing) else None
        with bar(f"{self.title}: tokenising", total) as progress:
            for sharing in self.sharing:
                for piece in sharing.shared.pieces(sharing.missing()):
                    sharing.make(piece, examples)
                    progress.advance()
        index = Index(self.folder, {f"{one.one.name}-{one.one.number}": one.pieces for one in self.sharing})
        wait([token_folder(self.folder).path(part) for one in self.sets for part in index.parts(one)])
        return index

    def _compare(self, wait: Wait) -> None:
        both = [(one, one.shared) for one in self.sharing if isinstance(one.shared, Compared)]
        parts = [part for sharing, compared in both for part in sharing.write_keys(compared)]
        wait([token_folder(self.folder).path(part) for part in parts])
        for sharing, compared in both:
            sharing.compare(compared)

    def publish(self, index: Index) -> None:
        """The index, and away with what nobody needs any more."""
        write_json(self.folder / INDEX, {"pieces": index.pieces, "examples": _examples(index, self.sets)})
        for keys in self.folder.glob("*-keys-*.safetensors"):
            keys.unlink(missing_ok=True)
        for other in self.folder.parent.iterdir():
            if other != self.folder:  # of data or a tokenizer that changed since
                shutil.rmtree(other, ignore_errors=True)


Wait = Callable[[Sequence[Path]], None]
"""Until all of these files are there."""


def waiting(folder: Path, minutes: float, more: Callable[[], int]) -> Wait:
    """UserError when for so many minutes none came, and nothing became more of what `more` counts either."""

    def wait(files: Sequence[Path]) -> None:
        missing, seen, since = list(files), (-1, -1), time.monotonic()
        while missing := _not_there(missing):
            before, seen = seen, (len(missing), more())
            if seen != before:
                since = time.monotonic()
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - since > 60 * minutes:
                raise UserError(
                    f"{folder}: no other process wrote any tokens for {minutes:g} minutes: one has ended, and its own "
                    f"message says why; start the same command again, what is there stays"
                )

    return wait


def _not_there(files: list[Path]) -> list[Path]:
    return [file for file in files if not file.is_file()]


def without_held_out(total: int, held_out: Sequence[int]) -> np.ndarray:
    """The numbers below `total` that are not held out, int32."""
    return np.delete(np.arange(total, dtype=np.int32), held_out)
