"""Rows of a corpus in other languages: a datatrove step that translates one shard into one language at a time.

Batches are those of all texts of a shard, whatever is translated already: a translation may depend on its batch by a rounding, and
so depends on nothing else, not on the number of tasks and not on kills.
"""

from __future__ import annotations

import functools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import sentencex
from datatrove.data import DocumentsPipeline
from datatrove.pipeline.base import PipelineStep

from mmscale import registry
from mmscale.config.corpus import CorpusConfig, CorpusSourceConfig
from mmscale.config.corpus_translate import TranslateConfig
from mmscale.corpus.layout import WORK, shard_path, source_folder
from mmscale.corpus.marks import Cutter, Layout, Passage, whole
from mmscale.corpus.reading import shard_count
from mmscale.corpus.rows import CorpusRow, TranslationNote, read_rows, write_rows
from mmscale.corpus.translators.base import PassageTranslator
from mmscale.data.phrases import ANSWERS
from mmscale.errors import UserError
from mmscale.evaluation.answers.written_numbers import normalised, numbers
from mmscale.progress import say
from mmscale.storage.files import digest, write_json
from mmscale.storage.locks import alone_in
from mmscale.storage.reading import read_json_object
from mmscale.translation.cache import TranslationCache
from mmscale.translation.translator import Translated

_BETWEEN = "\0"
"""What parts question and rationale of a row that is translated as one text; a mark in it."""
SETTINGS, COUNTS = "translation.json", ".counts.json"


@dataclass(frozen=True)
class Pair:
    """One source's way into one language."""

    source: CorpusSourceConfig
    target: str

    @property
    def name(self) -> str:
        return f"{self.source.title} into {self.target}"


def pairs(config: CorpusConfig) -> list[Pair]:
    """Every translation that a corpus needs."""
    return [Pair(one, code) for one in config.sources for code in config.languages if code != one.language]


@functools.lru_cache(maxsize=8)
def translator(config: str, source: str, target: str) -> PassageTranslator:
    """The translator of a configuration's JSON for two languages."""
    parsed = TranslateConfig.model_validate_json(config)
    made: PassageTranslator = registry.get("translators", parsed.backend)(parsed, source, target)
    return made


def translator_of(config: TranslateConfig, pair: Pair) -> PassageTranslator:
    """The translator of a pair."""
    return translator(config.model_dump_json(), pair.source.language, pair.target)


def work_key(config: TranslateConfig, pair: Pair) -> str:
    """Names all that decides the translations of a pair."""
    segmenter = ["sentencex", version("sentencex")]
    return digest([config.deciding, translator_of(config, pair).identity, pair.source.language, pair.target, segmenter])


def require_translatable(config: TranslateConfig, pair: Pair) -> None:
    """UserError where a pair cannot be translated: a language that the model does not know, one without an answer line."""
    if pair.target not in ANSWERS and pair.target not in config.answer_phrases:
        raise UserError(
            f"language '{pair.target}' has no line that states an answer here: give it one, "
            f"translate.answer_phrases.{pair.target}='… {{answer}}'"
        )
    translator_of(config, pair).require()


def cutter(config: TranslateConfig, pair: Pair) -> Cutter:
    """How texts of a pair are cut up."""
    words = {word: there[pair.target] for word, there in config.glossary.items() if pair.target in there}
    unit = config.unit or translator_of(config, pair).usual_unit
    return Cutter(
        sentences=lambda text: list(sentencex.segment(pair.source.language.split("-")[0], text)),
        answer_line=config.answer_phrases.get(pair.target) or ANSWERS[pair.target],
        glossary=words,
        by_line=unit == "sentence",
    )


@dataclass
class TranslationCounts:
    """What a shard's translation went through."""

    rows: int = 0
    passages: int = 0
    restored_marks: int = 0
    lost_marks: int = 0
    unfinished: int = 0
    source_cut: int = 0
    empty: int = 0
    first_lost: list[str] = field(default_factory=list)


class ShardTranslation:
    """One shard on its way into one language."""

    def __init__(self, config: TranslateConfig, pair: Pair, rows: Sequence[CorpusRow], work: Path) -> None:
        """`work` is a folder for what is translated so far."""
        self.config, self.pair, self.rows = config, pair, rows
        self.translator = translator_of(config, pair)
        self._cache = TranslationCache(work, work_key(config, pair))
        self._made: dict[str, Translated] = {}
        self._whole_rows = (config.unit or self.translator.usual_unit) == "row"

    def translated(self) -> list[CorpusRow]:
        """All rows; what is translated already is taken up, the rest kept batch by batch."""
        cut = cutter(self.config, self.pair)
        layouts = [self._layouts(cut, row) for row in self.rows]
        passages = [part for layout in layouts for text in layout for part in text if isinstance(part, Passage)]
        self._made = {text: made for (_, text), made in self._cache.rows().items()}
        self._translate([self._shown(passage) for passage in passages])
        lossy = [passage for passage in passages if self._restored(passage) is None]
        self._translate([piece for passage in lossy for piece in passage.pieces()])
        return [self._row(row, layout) for row, layout in zip(self.rows, layouts, strict=True)]

    def _layouts(self, cut: Cutter, row: CorpusRow) -> list[Layout]:
        """One layout of question and rationale together, or one of each."""
        both = [cut.cut(row.question), cut.cut(row.rationale)]
        return [whole([*both[0], "\n\n", _BETWEEN, "\n\n", *both[1]])] if self._whole_rows and row.rationale else both

    def _shown(self, passage: Passage) -> str:
        return passage.shown(self.config.placeholder)

    def _restored(self, passage: Passage) -> str | None:
        return passage.restored(self._made[self._shown(passage)].text, self.config.placeholder)

    def _translate(self, texts: Sequence[str]) -> None:
        """Translate what is open, in batches of all."""
        wanted = sorted(set(texts))
        lengths = dict(zip(wanted, self.translator.lengths(wanted), strict=True)) if wanted else {}
        for batch in batches(lengths, self.config.batch_tokens):
            if any(text not in self._made for text in batch):
                self._translate_batch(batch)

    def _translate_batch(self, batch: Sequence[str]) -> None:
        for number, made in self.translator.translate(batch):
            if batch[number] not in self._made:
                self._made[batch[number]] = made
                self._cache.append({(self.pair.source.language, batch[number]): made})

    def _row(self, row: CorpusRow, layouts: Sequence[Layout]) -> CorpusRow:
        texts = [self._text(layout) for layout in layouts]
        if len(layouts) == 1:
            question, _, rationale = texts[0].partition(_BETWEEN)
        else:
            question, rationale = texts
        passages = [part for layout in layouts for part in layout if isinstance(part, Passage)]
        made = [one for passage in passages for one in self._of(passage)]
        restored = [mark.text for passage in passages if self._restored(passage) is None for mark in passage.marks]
        source = f"{row.question}\n{row.rationale}"
        note = TranslationNote(
            backend=self.config.backend,
            model=self.config.model,
            finished=all(one.finished for one in made),
            source_cut=any(one.source_cut for one in made),
            empty=any(not one.text for one in made)
            or not question.strip()
            or bool(row.rationale) > bool(rationale.strip()),
            passages=len(passages),
            restored_marks=tuple(mark for mark in restored if mark != _BETWEEN),
            lost_marks=lost_numbers(source, row.language, f"{question}\n{rationale}", self.pair.target),
        )
        return CorpusRow(
            problem=row.problem,
            source=row.source,
            language=self.pair.target,
            question=question.strip(),
            rationale=rationale.strip(),
            answer=row.answer,
            origin=row.origin,
            source_language=row.language,
            source_question=row.question,
            source_rationale=row.rationale,
            translation=note,
            notes=row.notes,
        )

    def _of(self, passage: Passage) -> list[Translated]:
        """What a passage was made from."""
        if self._restored(passage) is not None:
            return [self._made[self._shown(passage)]]
        return [self._made[piece] for piece in passage.pieces()]

    def _text(self, layout: Layout) -> str:
        return "".join(part if isinstance(part, str) else self._passage(part) for part in layout)

    def _passage(self, passage: Passage) -> str:
        restored = self._restored(passage)
        return restored if restored is not None else passage.joined(lambda piece: self._made[piece].text)


def batches(lengths: dict[str, int], most: int) -> Iterator[list[str]]:
    """Texts by their length, as many together as fill `most` tokens with their padding; one that is longer alone."""
    batch: list[str] = []
    for text in sorted(lengths, key=lambda text: (-lengths[text], text)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(text)
    if batch:
        yield batch


def lost_numbers(source: str, source_language: str, translation: str, language: str) -> tuple[str, ...]:
    """Numbers of a text that its translation holds less often, each read by the customs of its language."""
    there = Counter(number.value for number in numbers(normalised(translation), language))
    missing = Counter(number.value for number in numbers(normalised(source), source_language)) - there
    return tuple(str(value) for value in missing.elements())


class CorpusTranslation(PipelineStep):
    """A datatrove step that writes the shards of every language; a task takes every `world_size`th. What is there stays."""

    name = "translation"
    type = "translation"

    def __init__(self, config: CorpusConfig) -> None:
        super().__init__()
        self.config = config

    def run(self, data: DocumentsPipeline = None, rank: int = 0, world_size: int = 1) -> DocumentsPipeline:
        for pair, number in shard_list(self.config)[rank::world_size]:
            translate_shard(self.config, pair, number)
        return data


def shard_list(config: CorpusConfig) -> list[tuple[Pair, int]]:
    """Every (pair, number of a shard) of a corpus whose sources are read, language after language."""
    return [(pair, number) for pair in pairs(config) for number in range(shard_count(config.folder, pair.source))]


def translate_shard(config: CorpusConfig, pair: Pair, number: int) -> None:
    """Write one shard in one language, unless it is there."""
    title, target = pair.source.title, pair.target
    path = shard_path(config.folder, title, target, number)
    if path.is_file() or config.translate is None:
        return
    work = config.folder / WORK / "translate" / f"{title}.{target}.{number:05d}"
    with alone_in(work):
        rows = list(read_rows(shard_path(config.folder, title, pair.source.language, number)))
        made = ShardTranslation(config.translate, pair, rows, work).translated()
        write_json(path.with_name(f"{number:05d}{COUNTS}"), asdict(_counts(made)))
        write_rows(path, made)
    shutil.rmtree(work)


def _counts(rows: Sequence[CorpusRow]) -> TranslationCounts:
    counts = TranslationCounts(rows=len(rows))
    for row in rows:
        note = row.translation
        assert note is not None
        counts.passages += note.passages
        counts.restored_marks += len(note.restored_marks)
        counts.lost_marks += bool(note.lost_marks)
        counts.unfinished += not note.finished
        counts.source_cut += note.source_cut
        counts.empty += note.empty
        if note.lost_marks and len(counts.first_lost) < 3:
            counts.first_lost.append(f"{row.id} ({', '.join(note.lost_marks[:5])})")
    return counts


def begin(config: CorpusConfig) -> None:
    """UserError where a language cannot be translated into, or where shards that are there are of other settings."""
    if pairs(config) and config.translate is None:
        first = pairs(config)[0]
        raise UserError(
            f"source {first.source.title} is in {first.source.language} and the corpus is wanted in {first.target}: say what "
            f"translates in translate: {{backend: …, model: …}}, or leave that language out"
        )
    told: dict[str, Pair] = {}
    for pair in pairs(config):
        assert config.translate is not None
        require_translatable(config.translate, pair)
        other = told.setdefault(digest([pair.source.title, translator_of(config.translate, pair).told]), pair)
        if other is not pair:
            raise UserError(
                f"{config.translate.model} would be asked the same for '{other.target}' and '{pair.target}': its prompt or prefix has "
                f"to name the language that is translated into, or one language be wanted alone"
            )
        _claim(config.folder, config.translate, pair)


def _claim(folder: Path, config: TranslateConfig, pair: Pair) -> None:
    """Say by which settings a language's shards are made, before the first of them."""
    file = source_folder(folder, pair.source.title) / pair.target / SETTINGS
    key = work_key(config, pair)
    if file.is_file():
        if read_json_object(file, "remove the folder that it is in").get("work") != key:
            raise UserError(
                f"{file.parent} holds translations of other settings or of another model: remove that folder, or choose another "
                f"output_dir"
            )
        return
    write_json(file, {"work": key, "settings": config.deciding})


def tell(config: CorpusConfig) -> None:
    """A line per language of what its rows went through."""
    for pair in pairs(config):
        folder = source_folder(config.folder, pair.source.title) / pair.target
        total = TranslationCounts()
        for file in sorted(folder.glob(f"*{COUNTS}")):
            total = _sum(total, TranslationCounts(**read_json_object(file, "remove that language's folder")))
        first = f" (first: {total.first_lost[0]})" if total.first_lost else ""
        faults = {
            "marks restored": total.restored_marks,
            f"rows lost numbers{first}": total.lost_marks,
            "rows not finished": total.unfinished,
            "rows of texts that were cut": total.source_cut,
            "rows of a text translated into nothing": total.empty,
        }
        told = "".join(f"; {count} {what}" for what, count in faults.items() if count)
        say(f"{pair.name}: {total.rows} rows of {total.passages} passages{told}")


def _sum(one: TranslationCounts, other: TranslationCounts) -> TranslationCounts:
    return TranslationCounts(**{name: value + getattr(other, name) for name, value in vars(one).items()})
