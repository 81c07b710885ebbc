"""A prompt by name, or written in a configuration."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from mmscale.config.base import Config, LanguageCode, Named
from mmscale.errors import UserError

MOST_CHARACTERS = 20_000


class PromptConfig(Config):
    """A prompt that is written down: around the question, as a Jinja template, behind MGSM's exemplars, or a named one; each may
    be put in a model's chat format."""

    name: Annotated[str, Named("prompts")] | None = None
    """A named prompt that it is (`mmscale list prompts`); with nothing else given, the question alone."""
    before: str | None = Field(default=None, max_length=MOST_CHARACTERS)
    """Text before the question."""
    after: str | None = Field(default=None, max_length=MOST_CHARACTERS)
    """Text behind the question."""
    template: str | None = Field(default=None, max_length=MOST_CHARACTERS)
    """Jinja template of the whole, from question, language, choices (label, text), relation, premise, hypothesis, source; where the
    data set names a translator also translation (of the question or premise), hypothesis_translation, and each choice's translation."""
    exemplars: str | None = None
    """The user's copy of MGSM's exemplars.py, whose worked problems stand before the question."""
    exemplars_form: Literal["native", "english_cot", "english"] = "native"
    """Exemplars in the question's language; with questions in it that are reasoned about in English; or all in English."""
    shots: int = Field(default=8, ge=1, le=64)
    """How many exemplars."""
    reads: Literal["problem", "parallel", "choice", "entailment"] | None = None
    """The kind of record that it shows in full; null is a word problem."""
    target: str | None = Field(default=None, max_length=MOST_CHARACTERS)
    """Jinja template of what is right to answer, from the same and answer, rationale, chosen (an option's text), label,
    target; null takes the kind's usual one."""
    shows: Literal["question", "translation"] = "question"
    """`translation` puts all of it around a translation of what is asked, in its place (translate-test): the data set names the
    translator."""
    joined: bool = True
    """Tokenise prompt and target as one text."""
    phrases: dict[LanguageCode, str] = {}
    """With `name: mcot`: code of a language -> its "let's think step by step", in place of the one it has or for one that has none."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts at which an answer ends."""
    chat: bool = False
    """Put it into the model's own chat format, as a user's message."""
    response_prefix: str = Field(default="", max_length=MOST_CHARACTERS)
    """With `chat`: text behind the format that the answer goes on from."""

    @model_validator(mode="after")
    def _one_prompt(self) -> PromptConfig:
        around = self.before is not None or self.after is not None
        given = [self.name is not None, around, self.template is not None, self.exemplars is not None]
        if sum(given) > 1:
            raise ValueError("give one of name, before and after, template, and exemplars")
        if around and self.reads in ("choice", "entailment"):
            raise ValueError(f"before and after would leave out what else a {self.reads} record says: write a template")
        if not (around or self.template) and (self.target is not None or self.reads is not None):
            raise ValueError("target and reads are those of before and after, or of a template")
        if self.phrases and self.name != "mcot":
            raise ValueError("phrases are of the prompt that says one in every language: set name: mcot too")
        if self.exemplars is None and {"shots", "exemplars_form"} & self.model_fields_set:
            raise ValueError("shots and exemplars_form are of exemplars: give the path of MGSM's exemplars.py")
        if self.response_prefix and not self.chat:
            raise ValueError("a response prefix stands behind a chat format: set chat: true too")
        return self

    @property
    def text(self) -> str:
        """It as a name: JSON, the same for the same prompt."""
        return json.dumps(self.model_dump(exclude_defaults=True), ensure_ascii=False, sort_keys=True)


def is_written(prompt: str) -> bool:
    """Whether a prompt's name is a prompt that is written down."""
    return prompt.startswith("{")


def written(prompt: str) -> PromptConfig:
    """The prompt that a name of this kind says; UserError where it is none."""
    try:
        return PromptConfig.model_validate_json(prompt)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"prompt {prompt:.60}: {where + ': ' if where else ''}{first['msg']}: correct it") from error


def _as_name(value: Any) -> Any:
    """A prompt that is written down as its name."""
    if isinstance(value, dict):
        return PromptConfig.model_validate(value).text
    if isinstance(value, str) and is_written(value):
        try:
            return written(value).text
        except UserError as error:  # pydantic collects what is a ValueError
            raise ValueError(str(error)) from error
    return value


class _NamedPrompt(Named):
    """Also one that is written down."""

    def _known(self, name: str) -> str:
        return name if is_written(name) else super()._known(name)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        return {"anyOf": [super().__get_pydantic_json_schema__(schema, handler), {"type": "object"}]}


PromptName = Annotated[str, _NamedPrompt("prompts"), BeforeValidator(_as_name)]
"""A name of the registry, or a PromptConfig, which becomes its text."""
