"""The configuration of a corpus: which rows it is made of, in which languages, and what they go through."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from mmscale.config.base import Config, LanguageCode, LanguageCodes, SourceName
from mmscale.config.corpus_check import CheckConfig
from mmscale.config.corpus_compile import CompileConfig
from mmscale.config.corpus_translate import TranslateConfig
from mmscale.config.documents import find_config, read_document, with_overrides
from mmscale.config.mistakes import mistakes

_NAME = re.compile(r"[A-Za-z0-9_-]+")


class CorpusSourceConfig(Config):
    """One data set of word problems in one language that the corpus begins with."""

    name: str = ""
    """What its rows are called by in the corpus; empty takes the source's name."""
    source: SourceName
    """Name of a source (`mmscale list sources`)."""
    path: str = ""
    """File, folder in the published layout, or a hub id for `table`."""
    language: LanguageCode = "en"
    """Code of the language that questions and rationales are in."""
    split: str = "train"
    """Split of the data set, as its files or the hub name it."""
    limit: int | None = Field(default=None, ge=1)
    """First rows only."""
    options: dict[str, Any] = {}
    """Options of the source, for example `columns` of `table`."""
    rationales: bool = True
    """Whether every row needs a rationale; a row without one is then unreadable."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """More unreadable rows than this share stops the corpus."""
    license: str = ""
    """Licence of the data set, for the data card."""

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r:.60} is no name for a folder: use letters, digits, _ and -")
        return name

    @property
    def title(self) -> str:
        """What its rows are called by."""
        return self.name or self.source


class CorpusConfig(Config):
    """Everything `mmscale corpus` does; written back, resolved, as corpus.yaml in the output folder."""

    output_dir: str = Field(min_length=1)
    """Folder of the corpus and of all that it is made from."""
    sources: tuple[CorpusSourceConfig, ...] = Field(min_length=1)
    """Data sets that it begins with."""
    languages: LanguageCodes = ()
    """Codes of the languages that it is wanted in; those that a source is not in are translated."""
    translate: TranslateConfig | None = None
    """What translates; null where no source has to be."""
    check: CheckConfig = CheckConfig()
    """How rows are checked."""
    compile: CompileConfig = CompileConfig()
    """How checked rows become a corpus for training."""
    shard_rows: int = Field(default=5000, ge=1)
    """Rows of a source in one shard, the piece of work that one task does at a time."""
    tasks: int = Field(default=1, ge=1, le=1 << 16)
    """Tasks that share the shards; their number changes no output."""
    workers: int = Field(default=1, ge=1, le=1024)
    """Tasks at the same time on one machine."""

    @model_validator(mode="after")
    def _of_own_names(self) -> CorpusConfig:
        titles = [source.title for source in self.sources]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"two sources are called '{title}': give each a name of its own")
        return self

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output_dir).expanduser()


def load_corpus(name: str, overrides: Sequence[str] = ()) -> CorpusConfig:
    """A corpus's configuration from a YAML file or one that ships with mmscale; UserError tells every mistake with its line."""
    document = with_overrides(read_document(find_config(name)), overrides)
    try:
        return CorpusConfig.model_validate(document.values)
    except ValidationError as error:
        raise mistakes(CorpusConfig, error, document) from error
