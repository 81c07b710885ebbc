"""What translates questions, so that a prompt may show a question's translation beside it or in its place."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from mmscale.config.base import Config, LanguageCode
from mmscale.config.model import DType, EncoderConfig

PREFIX_FIELDS = ("source", "target", "source_code", "target_code")
"""What a prefix may name: the English names of both languages, and their ISO codes."""


class TranslationConfig(Config):
    """A translator, an encoder-decoder of the NLLB, M2M100 or T5 family, and how it decodes. Translations are kept on disk."""

    path: str
    """Local folder or hub id of the translator, such as `facebook/nllb-200-3.3B`."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: DType = "float32"
    """How its weights are held."""
    trust_remote_code: bool = False
    """Run Python code that its folder brings."""
    target: LanguageCode = "en"
    """Language that is translated into; questions in it are kept as they are."""
    codes: dict[LanguageCode, str] = {}
    """ISO code -> the translator's own code, where it is not the usual one: {zh: zho_Hant}."""
    prefix: str | None = Field(default=None, max_length=1000)
    """Text before each question, for translators of the T5 family, which know their task by it: `translate {source} to {target}: `,
    or MADLAD-400's `<2{target_code}> `. {source} and {target} are English names, {source_code} and {target_code} ISO codes."""
    beams: int = Field(default=1, ge=1, le=64)
    """Beams of the search; 1 is greedy."""
    max_source_tokens: int = Field(default=512, ge=4)
    """Longest text that it reads; a longer one loses its end, and is counted."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest translation; a longer one loses its end, and is counted."""
    batch_size: int = Field(default=32, ge=1, le=1 << 16)
    """Texts translated at once."""
    cache: str | None = None
    """Folder that keeps translations; null is `translations` in the user's cache folder (`MMSCALE_CACHE`)."""

    @field_validator("prefix")
    @classmethod
    def _of_known_fields(cls, prefix: str | None) -> str | None:
        for field in re.findall(r"\{([^{}]*)\}", prefix or ""):
            if field not in PREFIX_FIELDS:
                raise ValueError(f"a prefix may name {', '.join(PREFIX_FIELDS)}, not {{{field}}}")
        return prefix

    @property
    def checkpoint(self) -> EncoderConfig:
        """Where its files are, as whatever loads a checkpoint asks."""
        return EncoderConfig(
            path=self.path, revision=self.revision, dtype=self.dtype, trust_remote_code=self.trust_remote_code
        )

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide what a text becomes, beside the translator's files; where these lie decides nothing."""
        return self.model_dump(mode="json", exclude={"path", "revision", "trust_remote_code", "batch_size", "cache"})
