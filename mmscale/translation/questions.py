"""Records with the translation of what they ask: made once by as many ranks as there are, and kept (translation/cache.py).

Batches are those of all texts that are asked for, whatever is there already and however many ranks take turns at the rest:
a translation may depend on its batch by a rounding, and so depends on nothing else.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmscale.config.translation import TranslationConfig
from mmscale.data.records import ParallelSentence, Record, Translation
from mmscale.errors import Interrupted, NotHereYet, UserError, told
from mmscale.models.identity import Digests, digests
from mmscale.parallel.context import ParallelContext
from mmscale.parallel.interruption import Interruption
from mmscale.progress import bar, say
from mmscale.storage.files import digest, user_cache
from mmscale.translation.cache import Rows, Source, TranslationCache
from mmscale.translation.translator import Translated, Translator, TranslatorTokenizer, load_translator

Note = Callable[[int, int], None]
"""Told (texts that are translated, of how many that were open)."""


def translator_files(config: TranslationConfig) -> Digests:
    """The files of a translator that decide what it says; UserError where there are none."""
    files = digests(config.checkpoint, ("generation_config.json",))
    if not files:
        raise UserError(f"translation.path={config.path} holds no translator: name its folder, or its id on the hub")
    return files


def require_languages(config: TranslationConfig, languages: Sequence[str]) -> None:
    """UserError naming the first language that a translator does not know; no weights are needed."""
    TranslatorTokenizer(config).require([code for code in dict.fromkeys(languages) if code != config.target])


@dataclass
class _Count:
    """What became of the texts that were asked for."""

    made: int = 0
    held: int = 0
    """Taken from the cache."""
    same: int = 0
    """In the target language already."""


class Translations:
    """The translations of one translator, in memory as far as they were asked for."""

    def __init__(
        self, config: TranslationConfig, context: ParallelContext, interruption: Interruption | None = None
    ) -> None:
        """All ranks of the layout make it and call it together. `interruption` is one that is entered already."""
        self.config, self.context, self._interruption = config, context, interruption
        self._rows: Rows = {}

    @functools.cached_property
    def cache(self) -> TranslationCache:
        """Where they are kept, by everything that decides them."""
        root = Path(self.config.cache).expanduser() if self.config.cache else user_cache() / "translations"
        alone = self.context.size == 1  # NotHereYet stays what it is
        files = (
            translator_files(self.config) if alone else self.context.from_first(lambda: translator_files(self.config))
        )
        return TranslationCache(root, digest([self.config.deciding, files]))

    @property
    def files(self) -> Mapping[str, Digests]:
        """The translator's files by its path, as far as they are here: another one there is told by them."""
        with contextlib.suppress(NotHereYet):
            return {self.config.path: translator_files(self.config)}
        return {}

    @functools.cached_property
    def _translator(self) -> Translator:
        return load_translator(self.config, self.context.device)

    def of(self, records: Sequence[Record], title: str, note: Note | None = None) -> list[Record]:
        """The records, each with its translation; what is not kept yet is translated now.

        Progress is told to `note`, else by a bar of its own. UserError for records that have nothing to translate, and for a
        language that the translator does not know; Interrupted, on all ranks, when a signal or a time limit ends it early.
        """
        wanted = self._wanted(records)
        open_ones = [source for source in wanted if source not in self._rows]
        count = _Count(same=sum(record.language == self.config.target for record in records))
        if open_ones:
            self._find(open_ones)
            count.held = sum(source in self._rows for source in open_ones)
            count.made = len(open_ones) - count.held
            if count.made:
                self._make(wanted, title, count.made, note)
        if open_ones or count.same:
            self._tell(title, count, [self._rows[source] for source in wanted])
        return [self._with(record) for record in records]

    def kept(self, records: Sequence[Record]) -> list[Record]:
        """`of` where all of it is there; NotHereYet where something is not translated yet. No weights are needed."""
        wanted = self._wanted(records)
        self._find([source for source in wanted if source not in self._rows])
        missing = [source for source in wanted if source not in self._rows]
        if missing:
            raise NotHereYet(f"{len(missing)} of {len(wanted)} texts are not translated by {self.config.path} yet")
        return [self._with(record) for record in records]

    def _wanted(self, records: Sequence[Record]) -> list[Source]:
        """Every text to translate once, with its language."""
        for record in records:
            if not record.texts:
                kind = "sentence pairs" if isinstance(record, ParallelSentence) else type(record).__name__
                raise UserError(
                    f"{record.origin}: {kind} have nothing to translate: take translation out of that data set"
                )
        others = [record for record in records if record.language != self.config.target]
        return list(
            dict.fromkeys((record.language, text) for record in others for text in record.texts if text.strip())
        )

    def _find(self, sources: Sequence[Source]) -> None:
        """Take up what is on the disk, the same on every rank."""
        if not sources:
            return

        def there() -> list[list[object]]:
            held = self.cache.rows()
            return [[*source, *vars(held[source]).values()] for source in sources if source in held]

        _ = self.cache  # all ranks ask the first one for it
        for language, text, *made in self.context.from_first(there):
            self._rows[language, text] = Translated(*made)

    def _make(self, wanted: Sequence[Source], title: str, count: int, note: Note | None) -> None:
        self.context.agree(told(lambda: require_languages(self.config, [language for language, _ in wanted])))
        batches = [batch for batch in self._batches(wanted) if any(source not in self._rows for source in batch)]
        context, made = self.context, 0
        mine = batches[context.rank :: context.size]
        problem = None
        with self._told(title, count, note) as tell:
            try:
                for batch in mine:
                    self.cache.append(self._translated(batch))
                    made = min(count, made + len(batch) * context.size)  # other ranks translate as many
                    tell(made, count)
                    if self._interruption is not None and self._interruption.noted:
                        break
            except UserError as error:
                problem = str(error)
        self.__dict__.pop("_translator", None)  # its memory is wanted for what reads the translations
        context.agree(problem)
        reason = self._interruption.reason() if self._interruption is not None else None
        if self._interruption is not None and reason is not None:
            say(f"{title}: stopped by {reason}; the same command goes on from there")
            raise Interrupted(reason, self._interruption.signal)
        self._find([source for source in wanted if source not in self._rows])
        lost = [source for source in wanted if source not in self._rows]
        if lost:
            raise UserError(
                f"{self.cache.folder} has lost {len(lost)} translations that were just written: check its disk"
            )

    def _translated(self, batch: Sequence[Source]) -> Rows:
        made = self._translator.translate([text for _, text in batch], [language for language, _ in batch])
        return {source: one for source, one in zip(batch, made, strict=True) if source not in self._rows}

    def _batches(self, wanted: Sequence[Source]) -> list[list[Source]]:
        """All texts by their length, about equal ones together."""
        ordered = sorted(wanted, key=lambda source: (len(source[1]), source))
        size = self.config.batch_size
        return [ordered[begin : begin + size] for begin in range(0, len(ordered), size)]

    @contextlib.contextmanager
    def _told(self, title: str, count: int, note: Note | None) -> Iterator[Note]:
        """What is told of progress: the caller's, or a bar."""
        if note is not None:
            yield note
            return
        with bar(f"{title}: translating", count) as progress:
            yield lambda made, _: progress.advance(made - progress.done)

    def _tell(self, title: str, count: _Count, rows: Sequence[Translated]) -> None:
        """One line of what was translated, and of everything that it lost."""
        lost = {
            "lost the end of the question": sum(row.source_cut for row in rows),
            "are of a question with signs that the translator does not know": sum(row.source_unknown for row in rows),
            "ended at max_new_tokens": sum(not row.finished for row in rows),
            "held a token that stands for no text": sum(row.unknown for row in rows),
            "are empty": sum(not row.text for row in rows),
        }
        told = [f"{count.made} texts translated by {self.config.path}"] if count.made else []
        told += [f"{count.held} translations taken from {self.cache.folder}"] if count.held else []
        told += [f"{count.same} questions are in {self.config.target} already"] if count.same else []
        faults = "".join(f"; {number} {what}" for what, number in lost.items() if number)
        if self.context.is_first:
            say(f"{title}: {', '.join(told)}{faults}")

    def _with(self, record: Record) -> Record:
        target, texts = self.config.target, record.texts
        if record.language != target:
            texts = tuple(self._rows[record.language, text].text if text.strip() else text for text in record.texts)
        return record.beside(Translation(texts, target))
