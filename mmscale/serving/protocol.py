"""What clients may ask, and how mistakes are told: OpenAI's completions and chat-completions interface.

https://platform.openai.com/docs/api-reference; the extensions top_k, min_p, repetition_penalty and language go into the
official client's `extra_body`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOST_CHOICES = 16
MOST_STOPS = 4
MOST_ALTERNATIVES = 20


class InterfaceError(Exception):
    """A mistake of the client's (or ours), as the interface's error object."""

    def __init__(
        self, status: int, message: str, kind: str = "invalid_request_error", param: str | None = None, code: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code or None}}


class _Asked(BaseModel):
    """What both interfaces share."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    n: int = Field(default=1, ge=1, le=MOST_CHOICES)
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    user: str | None = None
    top_k: int = Field(default=0, ge=0)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    repetition_penalty: float = Field(default=1.0, gt=0)
    language: str | None = None
    presence_penalty: Literal[0] = 0
    frequency_penalty: Literal[0] = 0
    logit_bias: dict[str, float] | None = Field(default=None, max_length=0)

    @property
    def stops(self) -> tuple[str, ...]:
        found = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(text for text in found if text)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.get("include_usage"))

    @model_validator(mode="after")
    def _few_stops(self) -> _Asked:
        if len(self.stops) > MOST_STOPS:
            raise ValueError(f"stop takes {MOST_STOPS} texts at most, not {len(self.stops)}")
        return self


class CompletionRequest(_Asked):
    """POST /v1/completions: text goes to the models as it is."""

    prompt: str | list[str]
    logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    echo: Literal[False] = False
    best_of: Literal[1] = 1
    suffix: None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def alternatives(self) -> int:
        return self.logprobs or 0

    @property
    def wants_logprobs(self) -> bool:
        return self.logprobs is not None

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_tokens is not None else 16  # the interface's default


class Message(BaseModel):
    """One turn of a conversation, text only."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[dict[str, Any]]

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        parts = [part.get("text") for part in self.content if part.get("type") == "text"]
        if len(parts) < len(self.content) or not all(isinstance(part, str) for part in parts):
            raise InterfaceError(400, "messages may hold text only", param="messages")
        return "".join(str(part) for part in parts)


class ChatRequest(_Asked):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_ALTERNATIVES)
    response_format: dict[str, Any] | None = None

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
