"""The frozen base of every configuration class, and the kinds of text that have to be a known name."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from mmscale import registry
from mmscale.errors import UserError
from mmscale.languages import LANGUAGES, language


class Named:
    """Marks text that has to be a name of the registry, or one of a few words beside."""

    def __init__(self, kind: str, *words: str) -> None:
        self.kind, self.words = kind, words

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "enum": [*self.words, *registry.names(self.kind)]}

    def _known(self, name: str) -> str:
        if name not in self.words:
            try:
                registry.require(self.kind, name)
            except UserError as error:  # pydantic collects what is a ValueError
                raise ValueError(str(error)) from error
        return name


class Suggested:
    """Marks text that may be a name of the registry, which editors offer, or one that the configuration makes itself."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{**handler(schema), "enum": registry.names(self.kind)}, handler(schema)]}


SourceName = Annotated[str, Named("sources")]
FilterName = Annotated[str, Named("filters")]
RuleName = Annotated[str, Named("rules")]
EncoderFamily = Annotated[str, Named("encoders", "auto")]
AnswererName = Annotated[str, Named("answerers")]
MethodName = Annotated[str, Named("methods")]
RecipeName = Annotated[str, Suggested("methods")]
TaskName = Annotated[str, Named("tasks")]
TrackerName = Annotated[str, Named("trackers")]


def _known_language(code: str) -> str:
    try:
        return language(code).code
    except UserError as error:
        raise ValueError(str(error)) from error


LanguageCode = Annotated[
    str,
    AfterValidator(_known_language),
    WithJsonSchema({"anyOf": [{"type": "string", "enum": sorted(LANGUAGES)}, {"type": "string", "minLength": 2}]}),
]
"""Code of a language; editors offer those of the benchmarks."""
LanguageCodes = tuple[LanguageCode, ...]

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What every generator of random numbers here takes."""


class Config(BaseModel):
    """A typed, frozen section of the configuration; unknown keys are refused, and numbers no library could take."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    @model_validator(mode="after")
    def _within_64_bits(self) -> Config:
        for name, value in self:
            if type(value) is int and not -(2**63) <= value < 2**63:
                raise ValueError(f"{name} is a number of more than 64 bits")
        return self


def deep_merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the keys of `above` in place of its own; mappings in both are laid over each other in turn."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = deep_merge(merged[key], value) if both else value
    return merged
