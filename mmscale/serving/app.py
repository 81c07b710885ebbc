"""The HTTP application: OpenAI's completions and chat completions, streamed or whole."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import re
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from mmscale.answering.local import LoadedModels
from mmscale.config.evaluation import GenerationConfig
from mmscale.decoding import engine
from mmscale.errors import UserError
from mmscale.languages import language as known_language
from mmscale.serving import prompts
from mmscale.serving.answers import ChatAnswers, CompletionAnswers, Grown, Usage
from mmscale.serving.guard import Guard, Limits
from mmscale.serving.metrics import Counted, ServerMetrics
from mmscale.serving.protocol import ChatRequest, CompletionRequest, InterfaceError
from mmscale.serving.text import TextStream
from mmscale.serving.worker import Busy, GenerationJob, Progress, Worker, sender

_DISCONNECT_POLL_S = 0.1
_CHARACTERS_PER_TOKEN = 32
"""More than any tokenizer packs: a text longer than that times the context is refused unread."""
_MEDIA = "text/plain; version=0.0.4; charset=utf-8"


@dataclass
class Choice:
    """One continuation that a client waits for."""

    index: int
    job: GenerationJob
    text: TextStream
    queue: asyncio.Queue[Progress]
    asked: float
    """When, by the monotonic clock."""


class Server:
    """Turns requests of the interface into jobs, and their tokens into answers."""

    def __init__(
        self, solver: LoadedModels, name: str, language: str, slots: int, context: int, most_waiting: int
    ) -> None:
        """`context`: tokens of a prompt and its continuation at most; `most_waiting`: requests beyond those that run."""
        self.solver, self.name, self.language, self.context = solver, name, language, context
        self.worker = Worker(solver, slots, context, most_waiting)
        self.metrics = ServerMetrics(self.worker)
        self.started = int(time.time())
        self._tokenizing = ThreadPoolExecutor(1, "mmscale tokenizing")

    async def prompted(self, asked: CompletionRequest | ChatRequest) -> list[prompts.Prompts]:
        """The prompts of a request, tokenised while others go on; InterfaceError for what cannot be asked."""
        if asked.model != self.name:
            raise InterfaceError(
                404,
                f"the model '{asked.model}' is not served here: it is '{self.name}'",
                param="model",
                code="model_not_found",
            )
        try:
            language = known_language(asked.language or self.language).code
        except UserError as error:
            raise InterfaceError(400, str(error), param="language") from error
        self._require_short(asked)
        loop = asyncio.get_running_loop()
        examples = await loop.run_in_executor(
            self._tokenizing, functools.partial(prompts.of_request, self.solver, asked, language)
        )
        self.metrics.prompt_tokens.inc(sum(own[0].merged_length for own in examples))
        return examples

    def _require_short(self, asked: CompletionRequest | ChatRequest) -> None:
        """InterfaceError for a prompt that could not fit whatever its tokens are, before anything reads it."""
        if isinstance(asked, ChatRequest):
            lengths = [sum(len(message.text) for message in asked.messages) / _CHARACTERS_PER_TOKEN]
        else:
            lengths = [len(one) / (_CHARACTERS_PER_TOKEN if isinstance(one, str) else 1) for one in asked.prompts]
        if max(lengths) > self.context:
            raise InterfaceError(
                400,
                f"the longest context is {self.context} tokens, and a prompt is longer than that: shorten it",
                param="messages" if isinstance(asked, ChatRequest) else "prompt",
                code="context_length_exceeded",
            )

    def choices(self, asked: CompletionRequest | ChatRequest, prompted: list[prompts.Prompts]) -> list[Choice]:
        """Submit every prompt's continuations; InterfaceError when there is no room for them."""
        seed = asked.own_seed if asked.own_seed is not None else secrets.randbits(62)
        loop = asyncio.get_running_loop()
        scored = isinstance(asked, CompletionRequest) and asked.echo and asked.wants_logprobs
        made = []
        for index, (own, number) in enumerate(itertools.product(prompted, range(asked.n))):
            config = self._config(asked, own, seed)
            end = self.solver.end.with_texts((*config.stop, *self.solver.template.stop))
            queue: asyncio.Queue[Progress] = asyncio.Queue()
            job = GenerationJob(
                request=engine.GenerationRequest(number, own, config, end),
                send=sender(loop, queue),
                alternatives=asked.alternatives,
                scores_prompt=scored,
                only_prompt=asked.most_tokens == 0,
            )
            made.append(Choice(index, job, TextStream(end), queue, time.monotonic()))
        try:
            self.worker.submit([choice.job for choice in made])
        except Busy as error:
            raise InterfaceError(
                503, "the server is busy: ask again in a while", kind="server_error", code="overloaded"
            ) from error
        return made

    def _config(self, asked: CompletionRequest | ChatRequest, own: prompts.Prompts, seed: int) -> GenerationConfig:
        room = self.context - max(prompt.merged_length for prompt in own)
        wanted = asked.most_tokens if asked.most_tokens is not None else room
        if room < 0 or (room < 1 and wanted) or wanted > room:
            raise InterfaceError(
                400,
                f"the longest context is {self.context} tokens; the prompt takes {self.context - room} of them and "
                f"{wanted} are asked for: shorten the prompt or lower max_tokens",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return GenerationConfig(
            max_new_tokens=max(wanted, 1),
            temperature=asked.temperature,
            top_k=asked.top_k,
            top_p=asked.top_p,
            min_p=asked.min_p,
            repetition_penalty=asked.repetition_penalty,
            seed=seed,
            stop=asked.stops,
        )

    async def pieces(self, choices: list[Choice]) -> AsyncIterator[tuple[Choice, Progress, str]]:
        """Progress of all choices with their new text, as it comes; whoever stops listening frees the slots."""
        waiting = {asyncio.ensure_future(choice.queue.get()): choice for choice in choices}
        try:
            while waiting:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for future in done:
                    choice, progress = waiting.pop(future), future.result()
                    if choice.asked and progress.token_ids:
                        self.metrics.first_token.observe(time.monotonic() - choice.asked)
                        choice.asked = 0.0
                    if progress.failure:
                        raise InterfaceError(500, f"decoding failed: {progress.failure}", kind="server_error")
                    if not progress.finished:
                        waiting[asyncio.ensure_future(choice.queue.get())] = choice
                    yield choice, progress, choice.text.feed(progress.token_ids, progress.finished)
        finally:
            for future, choice in waiting.items():
                future.cancel()
                self.worker.cancel(choice.job)


Answers = CompletionAnswers | ChatAnswers


async def _whole(server: Server, answers: Answers, choices: list[Choice], request: Request) -> dict[str, Any]:
    async def collect() -> None:
        async for choice, progress, text in server.pieces(choices):
            answers.add(choice.index, progress, text)

    task = asyncio.ensure_future(collect())
    try:
        while not task.done():
            await asyncio.wait([task], timeout=_DISCONNECT_POLL_S)
            if not task.done() and await request.is_disconnected():
                raise InterfaceError(499, "the client went away", kind="client_error")
        task.result()
    finally:
        task.cancel()
    return answers.whole()


async def _streamed(server: Server, answers: Answers, choices: list[Choice], usage: bool) -> AsyncIterator[str]:
    try:
        for chunk in answers.opening(len(choices)):
            yield _event(chunk)
        async for choice, progress, text in server.pieces(choices):
            if text or progress.finished:
                yield _event(answers.chunk(choice.index, progress, text))
            else:
                answers.keep(choice.index, progress)
        if usage:
            yield _event(answers.usage_chunk())
        yield "data: [DONE]\n\n"
    except InterfaceError as error:
        yield _event(error.body)


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _echoed(server: Server, asked: CompletionRequest) -> list[Grown]:
    """What each choice begins with: its prompt again, where that is asked for."""
    grown = []
    for prompt in asked.prompts if asked.echo else ():
        text = prompt if isinstance(prompt, str) else server.solver.end.decode(prompt)
        first = [] if isinstance(prompt, str) or not asked.wants_logprobs else prompt[:1]
        if first and not prompts.starts_with_bos(server.solver.tokenizers[0], first):
            first = []
        # a BOS that the client brings has nothing before it
        grown += [Grown(text, tokens=[(token, None, {}) for token in first]) for _ in range(asked.n)]
    return grown


def application(server: Server, stop_timeout_s: float = 30) -> FastAPI:
    """The application; its worker lives as long as it does."""

    @asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        server.worker.start()
        yield
        await asyncio.to_thread(server.worker.stop, stop_timeout_s)

    app = FastAPI(title="mmscale", lifespan=alive)
    model = {"id": server.name, "object": "model", "created": server.started, "owned_by": "mmscale"}

    @app.get("/health")
    async def health() -> JSONResponse:
        worker = server.worker
        status = {"status": "failed", "why": worker.failure} if worker.failure else {"status": "ok"}
        counts = {**worker.counts(), "step_s": round(worker.seconds_since_step, 3), **worker.draft_length.report_json()}
        return JSONResponse({**status, **counts}, status_code=503 if worker.failure else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=_MEDIA)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != server.name:
            raise InterfaceError(404, f"the model '{name}' is not served here", param="model", code="model_not_found")
        return model

    async def answered(
        asked: CompletionRequest | ChatRequest, prompted: list[prompts.Prompts], answers: Answers, request: Request
    ) -> Any:
        choices = server.choices(asked, prompted)
        if asked.stream:
            stream = _streamed(server, answers, choices, asked.include_usage)
            return StreamingResponse(stream, media_type="text/event-stream")
        return await _whole(server, answers, choices, request)

    @app.post("/v1/completions", responses=_MISTAKES)
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        prompted = await server.prompted(asked)
        usage = Usage.of(prompted, asked.n)
        answers = CompletionAnswers(asked, server.solver.end, usage, _echoed(server, asked))
        return await answered(asked, prompted, answers, request)

    @app.post("/v1/chat/completions", responses=_MISTAKES)
    async def chat(asked: ChatRequest, request: Request) -> Any:
        prompted = await server.prompted(asked)
        answers = ChatAnswers(asked, server.solver.end, Usage.of(prompted, asked.n))
        return await answered(asked, prompted, answers, request)

    _tell_mistakes(app)
    return app


def guarded(app: FastAPI, server: Server, limits: Limits) -> ASGIApp:
    """The application behind its limits, every answer counted."""
    paths = frozenset(path for route in app.routes if "{" not in (path := getattr(route, "path", "{")))
    return Counted(Guard(app, limits), server.metrics, paths)


_MISTAKES: dict[int | str, dict[str, Any]] = {
    status: {"description": what}
    for status, what in {
        400: "a mistake in the request",
        404: "no such model",
        500: "decoding failed",
        503: "too many requests wait",
    }.items()
}


def _tell_mistakes(app: FastAPI) -> None:
    """Every mistake as the interface's error object."""

    @app.exception_handler(InterfaceError)
    async def told(_: Request, error: InterfaceError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse(error.body, status_code=error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        # of a field that takes several forms pydantic names the form as well
        place = [str(part) for part in first["loc"] if part != "body" and re.fullmatch(r"\w+", str(part))]
        if first["type"] == "json_invalid":
            return JSONResponse(InterfaceError(400, "the request is not valid JSON").body, status_code=400)
        message = first["msg"].removeprefix("Value error, ")
        body = InterfaceError(400, f"{'.'.join(place) or 'request'}: {message}", param=place[0] if place else None).body
        return JSONResponse(body, status_code=400)

    @app.exception_handler(HTTPException)
    async def no_such_place(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(InterfaceError(error.status_code, message).body, status_code=error.status_code)
