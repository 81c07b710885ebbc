"""The HTTP application: OpenAI's completions and chat completions, streamed or whole."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from mmscale.config.evaluation import GenerationConfig
from mmscale.decoding import engine
from mmscale.evaluation.solving import Solver
from mmscale.serving import prompts
from mmscale.serving.answers import ChatAnswers, CompletionAnswers, Usage
from mmscale.serving.protocol import ChatRequest, CompletionRequest, InterfaceError
from mmscale.serving.text import TextStream
from mmscale.serving.worker import Busy, Job, Progress, Worker, sender

_DISCONNECT_POLL_S = 0.1


@dataclass
class Choice:
    """One continuation that a client waits for."""

    index: int
    job: Job
    text: TextStream
    queue: asyncio.Queue[Progress]


class Server:
    """Turns requests of the interface into jobs, and their tokens into answers."""

    def __init__(self, solver: Solver, name: str, language: str, slots: int, context: int, most_waiting: int) -> None:
        """`context`: tokens of a prompt and its continuation at most; `most_waiting`: requests beyond those that run."""
        self.solver, self.name, self.language, self.context = solver, name, language, context
        self.worker = Worker(solver, slots, context, most_waiting)
        self.started = int(time.time())

    def choices(self, asked: CompletionRequest | ChatRequest, prompted: list[prompts.Prompts]) -> list[Choice]:
        """Submit every prompt's continuations; InterfaceError when the model or the room for them is not there."""
        if asked.model != self.name:
            raise InterfaceError(
                404,
                f"the model '{asked.model}' is not served here: it is '{self.name}'",
                param="model",
                code="model_not_found",
            )
        seed = asked.seed if asked.seed is not None else secrets.randbits(62)
        loop = asyncio.get_running_loop()
        made = []
        for index, (own, number) in enumerate(itertools.product(prompted, range(asked.n))):
            config = self._config(asked, own, seed)
            end = self.solver.end.with_texts((*config.stop, *self.solver.template.stop))
            queue: asyncio.Queue[Progress] = asyncio.Queue()
            job = Job(engine.Request(number, own, config, end), sender(loop, queue), asked.alternatives)
            made.append(Choice(index, job, TextStream(end), queue))
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
        if room < 1 or wanted > room:
            raise InterfaceError(
                400,
                f"the longest context is {self.context} tokens; the prompt takes {self.context - room} of them and "
                f"{wanted} are asked for: shorten the prompt or lower max_tokens",
                param="max_tokens",
                code="context_length_exceeded",
            )
        return GenerationConfig(
            max_new_tokens=wanted,
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
    async def health() -> dict[str, Any]:
        return {"status": "ok", **server.worker.counts(), **server.worker.pace.report_json()}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def one_model(name: str) -> dict[str, Any]:
        if name != server.name:
            raise InterfaceError(404, f"the model '{name}' is not served here", param="model", code="model_not_found")
        return model

    async def answered(asked: Any, prompted: list[prompts.Prompts], answers: Answers, request: Request) -> Any:
        choices = server.choices(asked, prompted)
        if asked.stream:
            stream = _streamed(server, answers, choices, asked.include_usage)
            return StreamingResponse(stream, media_type="text/event-stream")
        return await _whole(server, answers, choices, request)

    @app.post("/v1/completions")
    async def completions(asked: CompletionRequest, request: Request) -> Any:
        language = asked.language or server.language
        prompted = [prompts.completion(server.solver, text, language) for text in asked.prompts]
        answers = CompletionAnswers(asked, server.solver.end, Usage.of(prompted, asked.n))
        return await answered(asked, prompted, answers, request)

    @app.post("/v1/chat/completions")
    async def chat(asked: ChatRequest, request: Request) -> Any:
        prompted = [prompts.conversation(server.solver, asked.messages, asked.language or server.language)]
        answers = ChatAnswers(asked, server.solver.end, Usage.of(prompted, asked.n))
        return await answered(asked, prompted, answers, request)

    _tell_mistakes(app)
    return app


def _tell_mistakes(app: FastAPI) -> None:
    """Every mistake as the interface's error object."""

    @app.exception_handler(InterfaceError)
    async def told(_: Request, error: InterfaceError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == 503 else None
        return JSONResponse(error.body, status_code=error.status, headers=headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = [str(part) for part in first["loc"] if part != "body"]
        if first["type"] == "json_invalid":
            return JSONResponse(InterfaceError(400, "the request is not valid JSON").body, status_code=400)
        message = first["msg"].removeprefix("Value error, ")
        body = InterfaceError(400, f"{'.'.join(place) or 'request'}: {message}", param=place[0] if place else None).body
        return JSONResponse(body, status_code=400)

    @app.exception_handler(HTTPException)
    async def no_such_place(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}"
        return JSONResponse(InterfaceError(error.status_code, message).body, status_code=error.status_code)
