"""An LLM behind an OpenAI-compatible endpoint as translator: several requests in flight, asked again with growing pauses."""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Literal

import openai

from mmscale.corpus.translators.base import PassageTranslator, seed_of
from mmscale.errors import UserError
from mmscale.languages import language
from mmscale.progress import say
from mmscale.translation.translator import Translated

_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_PASSING = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
"""What may be over at the next try: no connection, too slow, too many requests, a fault of the server."""


class EndpointTranslator(PassageTranslator):
    """An LLM behind any OpenAI-compatible endpoint, asked by a prompt."""

    usual_unit: Literal["sentence", "text", "row"] = "row"

    def require(self) -> None:
        _ = self._client

    @property
    def told(self) -> Any:
        return self._prompt("")

    @property
    def identity(self) -> Any:
        return [self.config.endpoint.url, self.config.model]

    @functools.cached_property
    def _client(self) -> openai.OpenAI:
        settings = self.config.endpoint
        key = os.environ.get(settings.key_variable)
        if not key and settings.url == type(settings).model_fields["url"].default:
            raise UserError(
                f"environment variable {settings.key_variable} is not set: it holds the key of {settings.url}"
            )
        return openai.OpenAI(base_url=settings.url, api_key=key or "none", max_retries=0, timeout=settings.timeout_s)

    def translate(self, texts: Sequence[str]) -> Iterator[tuple[int, Translated]]:
        patience = _Patience(self.config.endpoint.patience_s, self.config.endpoint.url)
        with ThreadPoolExecutor(self.config.endpoint.requests_in_flight) as pool:
            asked = {pool.submit(self._ask, text, patience): number for number, text in enumerate(texts)}
            try:
                for done in as_completed(asked):
                    yield asked[done], done.result()
            finally:  # of an error or a signal: what is not begun is not asked
                patience.end()
                pool.shutdown(cancel_futures=True)

    def _prompt(self, text: str) -> str:
        words = {word: there[self.target] for word, there in self.config.glossary.items() if self.target in there}
        lines = "".join(f"{word} = {translation}\n" for word, translation in words.items() if word in text)
        named = {"source": language(self.source).name, "target": language(self.target).name, "glossary": lines}
        filled = self.config.endpoint.prompt
        for field, value in named.items():
            filled = filled.replace("{" + field + "}", value)
        return filled.replace("{text}", text)

    def _ask(self, text: str, patience: _Patience) -> Translated:
        for attempt in range(1 << 30):
            try:
                answer = self._client.chat.completions.create(
                    model=self.config.model,
                    messages=[{"role": "user", "content": self._prompt(text)}],
                    temperature=self.config.temperature,
                    max_tokens=self.config.max_new_tokens,
                    seed=seed_of(self.config, text),
                )
                patience.reward()
                return _read(answer, self.config.endpoint.url)
            except _PASSING as error:
                patience.wait(attempt, error)
            except openai.OpenAIError as error:
                raise UserError(
                    f"{self.config.endpoint.url} refuses to translate with '{self.config.model}' ({_reason(error)}): correct "
                    f"translate.model, translate.endpoint or the key; the same command goes on"
                ) from error
        raise AssertionError("patience ends before this")


def _read(answer: Any, url: str) -> Translated:
    choices = getattr(answer, "choices", None)
    if not choices or choices[0].message is None:
        raise UserError(f"{url} answered with no choice of a completion: it is no OpenAI-compatible endpoint")
    return Translated((choices[0].message.content or "").strip(), finished=choices[0].finish_reason != "length")


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


class _Patience:
    """How long an endpoint that fails is asked again, by all requests together."""

    def __init__(self, seconds: float, url: str) -> None:
        self.seconds, self.url = seconds, url
        self._failing_since: float | None = None
        self._ended, self._lock = threading.Event(), threading.Lock()

    def reward(self) -> None:
        """A request succeeded."""
        with self._lock:
            self._failing_since = None

    def end(self) -> None:
        """No request waits any more."""
        self._ended.set()

    def wait(self, attempt: int, error: Exception) -> None:
        """Pause before the next try; UserError when none has succeeded for too long."""
        with self._lock:
            now, first = time.monotonic(), self._failing_since is None
            since = self._failing_since = now if self._failing_since is None else self._failing_since
        failed = now - since
        if first:
            say(f"{self.url} fails ({_reason(error)}): it is asked again for up to {self.seconds:g} s")
        if failed >= self.seconds or self._ended.is_set():
            raise UserError(
                f"{self.url} has failed for {failed:.0f} s (last: {_reason(error)}), longer than translate.endpoint.patience_s="
                f"{self.seconds:g}: what is translated is kept, the same command goes on from there"
            ) from error
        pause = min(_LONGEST_PAUSE_S, _PAUSE_S * 2 ** min(attempt, 10), max(0.05, self.seconds - failed))
        self._ended.wait(max(_told_pause(error), pause * random.uniform(0.5, 1)))


def _told_pause(error: Exception) -> float:
    """Seconds that the server asks to wait, at most our own longest."""
    response = getattr(error, "response", None)
    told = response.headers.get("retry-after", "") if response is not None else ""
    return min(_LONGEST_PAUSE_S, float(told)) if told.replace(".", "", 1).isdigit() else 0.0
