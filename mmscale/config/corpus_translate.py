"""How the rows of a corpus are translated."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmscale.config.base import Config, LanguageCode, Named, Seed
from mmscale.config.prompt import PromptName

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ENDPOINT_PROMPT = (
    "Translate the following text from {source} to {target}. Keep numbers, formulas, line breaks and marks in square brackets such as "
    "[1] exactly as they are. Answer with the translation alone.\n\n{glossary}{text}"
)


class EndpointConfig(Config):
    """An OpenAI-compatible endpoint; its key is read from the environment alone."""

    url: str = "https://api.openai.com/v1"
    """Where it is, up to /v1."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable of its key; an endpoint of one's own may need none."""
    prompt: str = Field(default=ENDPOINT_PROMPT, max_length=20_000)
    """What it is asked: {text}, English names of the languages {source} and {target}, {glossary} (lines, or nothing)."""
    requests_in_flight: int = Field(default=8, ge=1, le=1024)
    """Requests at the same time per task."""
    timeout_s: float = Field(default=120, gt=0)
    """Longest wait for one answer."""
    patience_s: float = Field(default=3600, ge=0)
    """How long it is asked again while no request succeeds; after that the command ends and can go on later."""

    @field_validator("key_variable")
    @classmethod
    def _is_a_variable(cls, name: str) -> str:
        if not _VARIABLE.fullmatch(name):
            raise ValueError("name an environment variable; the key itself stands in no file")
        return name

    @field_validator("prompt")
    @classmethod
    def _asks_for_the_text(cls, prompt: str) -> str:
        for field in re.findall(r"\{(\w*)\}", prompt):
            if field not in ("text", "source", "target", "glossary"):
                raise ValueError(f"a prompt may name text, source, target and glossary, not {{{field}}}")
        if prompt.count("{text}") != 1:
            raise ValueError("a prompt has to name {text} once")
        return prompt


class TranslateConfig(Config):
    """What translates, and how text is cut up for it."""

    backend: Annotated[str, Named("translators")]
    """Name of a translator (`mmscale list translators`)."""
    model: str = Field(min_length=1)
    """Folder or hub id of the model; a folder made by `mmscale convert --to ctranslate2`; a name the endpoint knows."""
    unit: Literal["sentence", "text", "row"] | None = None
    """What is translated by itself: sentences (usual for encoder-decoders), question and rationale each as a whole, or both of a row
    together, so that names agree (usual for endpoints). null takes what is usual; a `model` of ours takes texts."""
    codes: dict[LanguageCode, str] = {}
    """Code of a language -> the translator's own, where it is not the usual one: {zh: zho_Hant}."""
    prefix: str | None = Field(default=None, max_length=1000)
    """Text before what is translated, for the T5 family: MADLAD-400's `<2{target_code}> `."""
    prompt: PromptName | None = None
    """Prompt of a `model` of ours; null takes the one it was trained with."""
    endpoint: EndpointConfig = EndpointConfig()
    """For backend openai: where it is, and how it is asked."""
    dtype: Literal["float32", "float16", "bfloat16", "int8"] | None = None
    """Numbers that are computed with; null takes ctranslate2's int8 on a CPU and float16 on a GPU, float32 of others."""
    beams: int = Field(default=1, ge=1, le=64)
    """Beams of the search; 1 is greedy."""
    temperature: float = Field(default=0, ge=0, le=5)
    """Sampling, for endpoints and models of ours; 0 takes the likeliest."""
    seed: Seed = 0
    """Decides what is sampled, for each text by itself, whatever is translated beside it."""
    max_source_tokens: int = Field(default=512, ge=4)
    """Longest text that is read; a longer one loses its end, and the row says so."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Longest translation; a longer one loses its end, and the row says so."""
    batch_tokens: int = Field(default=4096, ge=1)
    """Tokens of a batch, padding included."""
    placeholder: str = "[{n}]"
    """What stands in a text for the formula, code, link or glossary term number {n}."""
    answer_phrases: dict[LanguageCode, str] = {}
    """Code of a language -> its line "The answer is: {answer}", in place of the one it has or for one that has none."""
    glossary: dict[str, dict[LanguageCode, str]] = {}
    """Word of the sources -> what it is in a language, always."""

    @field_validator("placeholder")
    @classmethod
    def _numbers_marks(cls, placeholder: str) -> str:
        if placeholder.count("{n}") != 1 or len(placeholder) < 5:
            raise ValueError("a placeholder names {n} once, between other characters: [{n}]")
        return placeholder

    @field_validator("answer_phrases")
    @classmethod
    def _say_the_answer(cls, phrases: dict[str, str]) -> dict[str, str]:
        for code, phrase in phrases.items():
            if phrase.count("{answer}") != 1:
                raise ValueError(f"the line of '{code}' has to name {{answer}} once")
        return phrases

    @model_validator(mode="after")
    def _one_way_of_decoding(self) -> TranslateConfig:
        if self.temperature and self.beams > 1:
            raise ValueError("temperature samples and beams search: take one of them out")
        if self.temperature and self.backend in ("ctranslate2", "transformers"):
            raise ValueError(
                f"{self.backend} samples a batch at once, so that a row would depend on its neighbours: take temperature out, or use "
                f"backend model or openai"
            )
        return self

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide what a text becomes, beside the model's files; where these lie decides nothing."""
        waiting = {"requests_in_flight", "timeout_s", "patience_s", "key_variable", "url"}
        return self.model_dump(mode="json", exclude={"model": True, "endpoint": waiting})
