"""How rows of a corpus are checked."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from mmscale.config.base import Config, Named
from mmscale.config.data import DataConfig
from mmscale.config.translation import TranslationConfig

CheckName = Annotated[str, Named("checks")]


class CheckConfig(Config):
    """Which checks rows go through, and what they drop."""

    only: tuple[CheckName, ...] = ()
    """The checks that are run (`mmscale list checks`); empty runs all built-in ones that need nothing that is not given here."""
    drop: tuple[CheckName, ...] = ()
    """Checks whose findings leave the corpus; the others flag, and their rows stay."""
    thresholds: dict[CheckName, float] = {}
    """Another threshold than a check's own."""
    benchmarks: tuple[DataConfig, ...] = ()
    """Data sets whose questions no row may hold, in the original or in the translation: for the check `overlap`."""
    overlap_similarity: float = Field(default=0.8, ge=0.1, le=1)
    """Least Jaccard similarity of character 5-grams that is an overlap."""
    back_translation: TranslationConfig | None = None
    """What translates questions back into the language of their original: for the check `back_translation`."""

    @model_validator(mode="after")
    def _runs_what_it_drops(self) -> CheckConfig:
        for name in self.drop:
            if self.only and name not in self.only:
                raise ValueError(f"drop names '{name}', which only does not run: add it there")
        return self
