"""The interface's answer objects, grown token by token."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmscale.decoding.stop_criteria import StopCriteria
from mmscale.serving.prompts import Prompts
from mmscale.serving.protocol import ChatRequest, CompletionRequest
from mmscale.serving.worker import Progress


@dataclass
class Usage:
    """Tokens of the base's prompts and of all continuations."""

    prompt_tokens: int
    completion_tokens: int = 0

    @classmethod
    def of(cls, prompted: list[Prompts], choices: int) -> Usage:
        """The same prompt counts once, however many continuations it has."""
        return cls(sum(own[0].merged_length for own in prompted))

    def to_json(self) -> dict[str, int]:
        return {**vars(self), "total_tokens": self.prompt_tokens + self.completion_tokens}


Told = tuple[int, float | None, dict[int, float]]
"""Id, log-probability (None where nothing stands before it) and likeliest others."""


@dataclass
class Grown:
    """What there is of one choice."""

    text: str = ""
    reason: str | None = None
    tokens: list[Told] = field(default_factory=list)
    told: int = 0
    """Tokens whose log-probabilities were sent."""


class _Answers(ABC):
    """What completions and chats share."""

    kind, prefix = "", ""

    def __init__(self, asked: CompletionRequest | ChatRequest, end: StopCriteria, usage: Usage) -> None:
        self.asked, self.end, self.usage = asked, end, usage
        self.grown: dict[int, Grown] = {}
        self.head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": asked.model}

    def keep(self, index: int, progress: Progress) -> Grown:
        """Note tokens of a choice."""
        one = self.grown.setdefault(index, Grown())
        likeliest = progress.likeliest or ({},) * len(progress.token_ids)
        one.tokens += [(token.token_id, token.log_probability, token.likeliest) for token in progress.prompt]
        one.tokens += zip(progress.token_ids, progress.log_probabilities, likeliest, strict=True)
        self.usage.completion_tokens += len(progress.token_ids)
        if progress.finished:
            one.reason = "stop" if progress.ended else "length"
        return one

    def add(self, index: int, progress: Progress, text: str) -> None:
        self.keep(index, progress).text += text

    def _new_logprobs(self, one: Grown, offset: int) -> dict[str, Any] | None:
        tokens, one.told = one.tokens[one.told :], len(one.tokens)
        return self._logprobs(tokens, offset) if self.asked.wants_logprobs else None

    @abstractmethod
    def _logprobs(self, tokens: list[Told], offset: int) -> dict[str, Any]:
        """Log-probabilities of tokens as this interface shows them; `offset`: characters before the first of them."""

    def _token(self, index: int) -> str:
        return self.end.decode([index])


class CompletionAnswers(_Answers):
    """Answers of /v1/completions."""

    kind, prefix = "text_completion", "cmpl"

    def __init__(self, asked: CompletionRequest, end: StopCriteria, usage: Usage, first: Sequence[Grown] = ()) -> None:
        """`first`: what each choice begins with, where the prompt is told again (echo)."""
        super().__init__(asked, end, usage)
        self.grown = dict(enumerate(first))

    def opening(self, choices: int) -> Iterator[dict[str, Any]]:
        return iter(())

    def chunk(self, index: int, progress: Progress, text: str) -> dict[str, Any]:
        one = self.keep(index, progress)
        offset, one.text = len(one.text), one.text + text
        choice = {
            "index": index,
            "text": text,
            "logprobs": self._new_logprobs(one, offset),
            "finish_reason": one.reason,
        }
        return {**self.head, "object": self.kind, "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        return {**self.head, "object": self.kind, "choices": [], "usage": self.usage.to_json()}

    def whole(self) -> dict[str, Any]:
        choices = [
            {"index": i, "text": one.text, "logprobs": self._new_logprobs(one, 0), "finish_reason": one.reason}
            for i, one in sorted(self.grown.items())
        ]
        return {**self.head, "object": self.kind, "choices": choices, "usage": self.usage.to_json()}

    def _logprobs(self, tokens: list[Told], offset: int) -> dict[str, Any]:
        names, offsets = [self._token(i) for i, _, _ in tokens], []
        for name in names:
            offsets.append(offset)
            offset += len(name)
        top = [self._by_name(likeliest) for _, _, likeliest in tokens]
        values = [value for _, value, _ in tokens]
        return {"tokens": names, "token_logprobs": values, "top_logprobs": top, "text_offset": offsets}

    def _by_name(self, likeliest: dict[int, float]) -> dict[str, float] | None:
        """The best of each name, since two tokens may look alike (halves of a letter); None where nothing was before."""
        by_token: dict[str, float] = {}
        for index, value in likeliest.items():
            by_token.setdefault(self._token(index), value)
        return by_token or None


class ChatAnswers(_Answers):
    """Answers of /v1/chat/completions."""

    kind, prefix = "chat.completion", "chatcmpl"

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self.head, "object": f"{self.kind}.chunk", "choices": choices, **more}

    def opening(self, choices: int) -> Iterator[dict[str, Any]]:
        for index in range(choices):
            delta = {"role": "assistant", "content": ""}
            yield self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def chunk(self, index: int, progress: Progress, text: str) -> dict[str, Any]:
        one = self.keep(index, progress)
        one.text += text
        delta = {"content": text} if text else {}
        logprobs = self._new_logprobs(one, 0)
        return self._chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": one.reason}])

    def usage_chunk(self) -> dict[str, Any]:
        return self._chunk([], usage=self.usage.to_json())

    def whole(self) -> dict[str, Any]:
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": one.text, "refusal": None},
                "logprobs": self._new_logprobs(one, 0),
                "finish_reason": one.reason,
            }
            for i, one in sorted(self.grown.items())
        ]
        return {**self.head, "object": self.kind, "choices": choices, "usage": self.usage.to_json()}

    def _logprobs(self, tokens: list[Told], offset: int) -> dict[str, Any]:
        def told(index: int, value: float | None) -> dict[str, Any]:
            name = self._token(index)
            return {"token": name, "logprob": value, "bytes": list(name.encode())}

        content = [
            {**told(i, value), "top_logprobs": [told(j, other) for j, other in likeliest.items()]}
            for i, value, likeliest in tokens
        ]
        return {"content": content, "refusal": None}
