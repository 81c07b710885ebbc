"""How checked rows become a corpus for training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mmscale.config.base import Config, Seed

NotNegative = Annotated[float, Field(ge=0)]


class CompileConfig(Config):
    """Mixture, splits and shards of the compiled corpus."""

    folder: str = ""
    """Folder of the compiled corpus; empty is `compiled` in the output folder."""
    title: str = "A multilingual corpus of reasoning"
    """Title of its data card."""
    form: Literal["corpus", "mcot"] = "corpus"
    """Columns of its rows: all that is known of a row, or mCoT-MATH's own (`lang-id`, question, answer)."""
    weights: dict[str, NotNegative] = {}
    """Language, source or SOURCE.LANGUAGE -> how much of it there shall be for the rows that it has, 1 where nothing is said; 0
    leaves it out."""
    caps: dict[str, Annotated[int, Field(ge=0)]] = {}
    """Language, source or SOURCE.LANGUAGE -> most rows of it."""
    temperature: float = Field(default=1, ge=1, le=100)
    """T of sampling over languages: shares go with (rows)^(1/T). 1 leaves them as they are; the higher, the more alike."""
    max_repeats: int = Field(default=1, ge=1, le=100)
    """How often a row may stand in the training split, so that languages of few rows get their share."""
    validation_share: float = Field(default=0.01, ge=0, lt=1)
    """Share of the problems that make the validation split, in all their translations."""
    shard_rows: int = Field(default=50_000, ge=1)
    """Rows of one file, about; as many are in memory at once."""
    seed: Seed = 0
    """Decides which rows are taken, and their order."""
