"""Which files a stage or task reads, and what to do with their faults."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from mmscale.config.base import Config, FilterName, LanguageCodes, SourceName
from mmscale.config.prompt import PromptName
from mmscale.config.translation import TranslationConfig


class DataConfig(Config):
    """One data set: a source by name, where its files are, and which rows are wanted."""

    source: SourceName
    """Name of a source (`mmscale list sources`)."""
    path: str = ""
    """File, folder in the published layout, or pattern with {language} or {Language}; a hub id for `table`."""
    languages: LanguageCodes = ()
    """ISO codes; empty means every language of the run."""
    split: str = "train"
    """Split of the data set, as its files or the hub name it."""
    limit_per_language: int | None = Field(default=None, ge=1)
    """First rows of each language only."""
    reversed: bool = False
    """Sentence pairs the other way round: English is what is translated, and the target is in the language (En to X)."""
    drop: tuple[FilterName, ...] = ()
    """Filters whose flagged rows are left out (`mmscale list filters`); training data is looked at by these alone, the rows of
    a task by every built-in one, which only count."""
    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """More unreadable rows than this share stops the run."""
    options: dict[str, Any] = {}
    """Options of the source, for example `columns` of `table`."""
    translation: TranslationConfig | None = None
    """What translates its questions, for prompts that read a translation (docs/tasks.md); for others nothing is translated."""

    @property
    def has_translations(self) -> bool:
        """Whether its questions get a translation: by a translator, or from a column of its file."""
        return self.translation is not None or self._has_column_of_translations

    @property
    def _has_column_of_translations(self) -> bool:
        columns = self.options.get("columns")
        return isinstance(columns, dict) and "translation" in columns

    @model_validator(mode="after")
    def _translated_once(self) -> DataConfig:
        if self.translation is not None and self._has_column_of_translations:
            raise ValueError(
                "options.columns names a column of translations, and translation a translator: take one out"
            )
        return self


class TrainingDataConfig(DataConfig):
    """A data set that a stage trains on."""

    prompt: PromptName | None = None
    """Name of a template for this data set alone; null takes the stage's."""
    share: float | None = Field(default=None, gt=0)
    """Its part of what an epoch goes over, against the sum of all shares of the stage (`mix_by`); null takes every row once.
    The data set that is scarcest for its share is gone over once in an epoch."""


class PackingConfig(Config):
    """How examples become rows of tokens and rows become optimizer steps."""

    row_tokens: int = Field(default=4096, ge=16)
    """Capacity of one packed row, in merged tokens of the LLM; bounds the memory of a micro-step."""
    global_batch_size: int | None = Field(default=None, ge=1)
    """Examples in one optimizer step over all ranks, exactly; rows are balanced to equal length."""
    global_batch_tokens: int | None = Field(default=None, ge=16)
    """Instead: token slots in one optimizer step; rows are filled to capacity by best fit."""
    max_prompt_tokens: int = Field(default=512, ge=4)
    """Longest prompt; a longer one loses the end of its question."""
    max_target_tokens: int = Field(default=512, ge=2)
    """Longest target; a longer one loses its end."""
    max_encoder_tokens: int = Field(default=512, ge=2)
    """Longest text of the encoder; a longer one loses its end."""
    max_joined_tokens: int | None = Field(default=None, ge=8)
    """Instead of the limits of prompt and target: BOS, prompt, target and EOS together, cut at the end (QAlign, Alpaca). A
    long question then loses the end of its target, or all of it."""

    @model_validator(mode="after")
    def _one_batch_size(self) -> PackingConfig:
        if (self.global_batch_size is None) == (self.global_batch_tokens is None):
            raise ValueError("give exactly one of global_batch_size (examples) and global_batch_tokens (token slots)")
        return self
