"""What clients may ask, and how mistakes are told: OpenAI's completions and chat-completions interface.

https://platform.openai.com/docs/api-reference; the extensions top_k, min_p, repetition_penalty and language go into the
official client's `extra_body`. A field that is null is as good as absent. Every field has a bound.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from mmscale.config.evaluation import LEAST_TEMPERATURE

MOST_CHOICES = 16
MOST_STOPS = 16
MOST_ALTERNATIVES = 20
MOST_PROMPTS = 256
MOST_MESSAGES = 1024


class InterfaceError(Exception):
    """A mistake of the client's (or ours), as the interface's error object."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None, code: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


def _whole_characters(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character (a lone surrogate) at place {error.start}") from error
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]
Name = Annotated[str, Field(max_length=512), AfterValidator(_whole_characters)]
Stop = Annotated[str, Field(max_length=256), AfterValidator(_whole_characters)]
TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(min_length=1)]
Nothing = Annotated[float, Field(ge=0, le=0)]
"""A number that only its neutral value is known for."""


class _Asked(BaseModel):
    """What both interfaces share."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    model: Name
    max_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: dict[str, bool] | None = Field(default=None, max_length=8)
    stop: Stop | list[Stop] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    repetition_penalty: float = Field(default=1.0, ge=0.001, le=1000)
    language: Annotated[str, Field(max_length=64)] | None = None
    # known by their neutral value alone
    presence_penalty: Nothing = 0
    frequency_penalty: Nothing = 0
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)
    ignore_eos: Literal[False] = False
    skip_special_tokens: Literal[True] = True
    # of no consequence for an answer
    user: Name | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values

    @property
    def stops(self) -> tuple[str, ...]:
        texts = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in texts if text)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.get("include_usage"))

    @property
    def own_seed(self) -> int | None:
        """The seed as the generators take it; every one that may be asked for has its own."""
        return None if self.seed is None else self.seed % 2**63

    @model_validator(mode="after")
    def _few_stops(self) -> _Asked:
        if len(self.stops) > MOST_STOPS:
            raise ValueError(f"stop takes {MOST_STOPS} texts at most, not {len(self.stops)}")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise ValueError(f"temperature is 0 (greedy) or at least {LEAST_TEMPERATURE}")
        return self


class CompletionRequest(_Asked):
    """POST /v1/completions: text, or token ids of the base's tokenizer, goes to the models as it is."""

    prompt: Text | list[Text] | TokenIds | list[TokenIds]
    max_tokens: int | None = Field(default=None, ge=0, lt=2**31)
    """0 with `echo` alone: the prompt is told again, and nothing after it."""
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: bool = False
    best_of: Literal[1] = 1
    suffix: Literal[""] | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)  # type: ignore[arg-type]

    @property
    def alternatives(self) -> int:
        return self.logprobs or 0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_tokens is not None else 16  # the interface's default

    @model_validator(mode="after")
    def _few_prompts(self) -> CompletionRequest:
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            raise ValueError(f"prompt takes 1 to {MOST_PROMPTS} prompts, not {len(self.prompts)}")
        if self.echo and self.stream:
            raise ValueError("echo and stream exclude each other")
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens is at least 1, or 0 with echo")
        return self


class Message(BaseModel):
    """One turn of a conversation, text only."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[dict[str, Any]], Field(max_length=MOST_MESSAGES)]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        parts = [part.get("text") for part in self.content if part.get("type") == "text"]
        if len(parts) < len(self.content) or not all(isinstance(part, str) for part in parts):
            raise InterfaceError(400, "messages may hold text only", param="messages")
        try:
            return _whole_characters("".join(str(part) for part in parts))
        except ValueError as error:
            raise InterfaceError(400, f"messages: {error}", param="messages") from error


class ChatRequest(_Asked):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MOST_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=2**31)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = Field(default=None, max_length=0)
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def alternatives(self) -> int:
        return self.top_logprobs or 0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs

    @property
    def most_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @model_validator(mode="after")
    def _text_only(self) -> ChatRequest:
        if self.response_format is not None and self.response_format.get("type") != "text":
            raise ValueError("response_format can only be text")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        return self
